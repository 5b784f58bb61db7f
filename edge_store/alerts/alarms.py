"""The conditions of a box that need a person, each raised until it is resolved.

Any room may raise and resolve, from any thread, as often as it looks: what is raised already is
only kept up to date. A change is logged, and shows in ``edge_store_alarm{name}``, in ``/readyz``
and so in ``edge-store status`` and ``edge-store doctor``. The names are fixed: what has no name
here is no alarm.
"""

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Self

from edge_store.clock import now_ms
from edge_store.loggers import get_logger
from edge_store.observability.metrics import Metrics
from edge_store.result import Record

__all__ = ["OF_FLEET", "Alarm", "AlarmName", "Alarms"]

log = get_logger(__name__)

OF_FLEET = "fleet_"
MESSAGE_CHARS_MAX = 500  # a dozen of them fit what /readyz may answer


class AlarmName(StrEnum):
    """Every alarm, with the sentence that docs/operations.md says of it. What is urgent is told in
    quiet hours too, and at once.
    """

    meaning: str
    is_urgent: bool

    def __new__(cls, value: str, meaning: str, is_urgent: bool = False) -> Self:  # noqa: FBT001, FBT002  (a table)
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        member.is_urgent = is_urgent
        return member

    ENGINE_DOWN = "engine_down", "the engine does not answer, or has died", True
    CHAIN_BROKEN = "chain_broken", "the database is damaged or gone, or its chain is broken", True
    RESULTS_LOST = "results_lost", "outcomes of admitted requests could not be stored", True
    DISK_LOW = "disk_low", "the disk is low, and something was given up for it", True
    REQUESTS_FAILING = "requests_failing", "too large a share of requests fails"
    QUEUE_OLD = "queue_old", "a queued request or a batch has waited for too long"
    INCOMPLETE = "incomplete", "admitted requests of the newest boots are in no row"
    REPLICA_TAKEN = "replica_taken", "another box writes to this box's replica", True
    REPLICA_BEHIND = "replica_behind", "what is committed has not been replicated for too long"
    REPLICA_STALLED = "replica_stalled", "the store is there, but the replica gets no further"
    REPLICA_BROKEN = "replica_broken", "the replica cannot be restored as it is", True
    REPLICA_PAUSED = "replica_paused", "replication was paused by hand, for over an hour"
    RETENTION_FAILING = (
        "retention_failing",
        "what is to go cannot be archived or deleted, or others fill the disk that has a floor",
    )
    FOREIGN_WRITER = "foreign_writer", "another program has the database open for writing", True
    DRILL_FAILED = "drill_failed", "a restore of the replica was tried, and does not hold", True
    SINK_BEHIND = "sink_behind", "results have waited for a sink for too long"
    SINK_LETTERS = "sink_letters", "a sink has refused results"

    # Those of a centre, about its boxes.
    FLEET_DUPLICATE = "fleet_duplicate", "two boxes go by one device id", True
    FLEET_TAMPERED = "fleet_tampered", "a head and the copy here contradict each other", True
    FLEET_HEAD_UNREADABLE = "fleet_head_unreadable", "the object of a head is none", True
    FLEET_HEAD_GONE = "fleet_head_gone", "a copy is here, and its box has no head in the store"
    FLEET_REPLICA_GONE = "fleet_replica_gone", "a box has a head in the store and no replica", True
    FLEET_PULL_FAILED = "fleet_pull_failed", "the newest pull of a box failed at its replica", True
    FLEET_PULL_HINDERED = (
        "fleet_pull_hindered",
        "the newest pull of a box failed, and not by its replica: by the way to it, or here",
    )
    FLEET_DEAD = "fleet_dead", "a box has given no sign for so long that it counts as dead", True
    FLEET_LATE = "fleet_late", "two heads of a box in a row did not come"
    FLEET_DRILL_FAILED = "fleet_drill_failed", "the newest restore drill of a box failed", True
    FLEET_DRILL_OLD = "fleet_drill_old", "no restore drill of a box has passed for too long"
    FLEET_INCOMPLETE = "fleet_incomplete", "admitted requests of a box are in no row"
    FLEET_DISK_LOW = "fleet_disk_low", "too little of a box's disk is free"
    FLEET_CLOCK_OFF = "fleet_clock_off", "a box's clock and its store's differ"
    FLEET_OUTDATED = "fleet_outdated", "a box runs an older version than it should"
    FLEET_COPY_OLD = "fleet_copy_old", "what a box has replicated has not been pulled for too long"
    FLEET_STORE_AWAY = "fleet_store_away", "a store does not answer: its boxes are not looked at"
    FLEET_COPY_UNREADABLE = "fleet_copy_unreadable", "the copy of a box cannot be read"

    @property
    def is_of_fleet(self) -> bool:
        """Whether a centre raises it, and no box."""
        return self.value.startswith(OF_FLEET)


class Alarm(Record, frozen=True, kw_only=True):
    """One that is raised. ``message`` and ``fields`` are of when it was ``seen`` last. ``fields``
    are numbers and short texts: no prompts, no secrets.
    """

    name: AlarmName
    since: int  # UTC ms
    seen: int  # UTC ms
    message: str
    fields: dict[str, Any]


class Alarms:
    """Those of this box. ``changed`` is called, by whichever thread, after a change."""

    def __init__(self, metrics: Metrics, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._metrics = metrics
        self._lock = threading.Lock()
        self._active: dict[AlarmName, Alarm] = {}
        self._ended: dict[AlarmName, int] = {}
        self.device = ""  # set once it is known
        self.changed: Callable[[], object] = lambda: None
        for name in AlarmName:
            if not name.is_of_fleet:
                self._show(name, None)

    @property
    def active(self) -> tuple[Alarm, ...]:
        """Those that are raised, the oldest first."""
        with self._lock:
            return tuple(self._active.values())

    @property
    def ended(self) -> dict[AlarmName, int]:
        """When those that are not raised, but were, were resolved last (UTC ms)."""
        with self._lock:
            return {name: at for name, at in self._ended.items() if name not in self._active}

    def recall(self, alarm: Alarm) -> None:
        """One that was raised when the daemon ended: it stands until somebody resolves it."""
        with self._lock:
            self._show(alarm.name, self._active.setdefault(alarm.name, alarm))

    def recall_end(self, name: AlarmName, at: int) -> None:
        """One that had ended by then, ``at`` (UTC ms), which somebody is to hear yet."""
        with self._lock:
            self._ended.setdefault(name, at)

    def raise_(self, name: AlarmName, message: str, **fields: Any) -> None:
        """``name`` holds, ``message`` says how; again and again while it does."""
        with self._lock:
            before, now = self._active.get(name), self._clock()
            alarm = Alarm(
                name=name,
                since=before.since if before else now,
                seen=now,
                message=_plain(message),
                fields={key: _plain(value) for key, value in fields.items()},
            )
            self._active[name] = alarm
            self._show(name, alarm)
        if before is None:
            log.error("alarm_raised", alarm=name.value, message=alarm.message, fields=alarm.fields)
            self.changed()

    def resolve(self, name: AlarmName) -> None:
        """``name`` does not hold, or no longer."""
        with self._lock:
            before = self._active.pop(name, None)
            if before is not None:
                self._ended[name] = self._clock()
            self._show(name, None)
        if before is not None:
            log.warning("alarm_resolved", alarm=name.value, after_ms=self._clock() - before.since)
            self.changed()

    def _show(self, name: AlarmName, alarm: Alarm | None) -> None:
        """None: it is not raised."""
        metrics = self._metrics
        metrics.alarm.labels(name.value).set(alarm is not None)
        metrics.alarm_since_seconds.labels(name.value).set(alarm.since / 1000 if alarm else 0)
        metrics.alarm_seen_seconds.labels(name.value).set(alarm.seen / 1000 if alarm else 0)


def _plain(value: Any) -> Any:
    """What JSON can say: a room may pass what it has at hand, a path or an odd file name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:MESSAGE_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
