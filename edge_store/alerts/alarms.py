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

import structlog

from edge_store.clock import now_ms
from edge_store.observability.metrics import Metrics
from edge_store.result import Record

__all__ = ["Alarm", "AlarmName", "Alarms"]

log = structlog.get_logger(__name__)

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
    FOREIGN_WRITER = "foreign_writer", "another program has the database open for writing", True
    DRILL_FAILED = "drill_failed", "a restore of the replica was tried, and does not hold", True


class Alarm(Record, frozen=True, kw_only=True):
    """One that is raised. ``fields`` are numbers and short texts: no prompts, no secrets."""

    name: AlarmName
    since: int  # UTC ms
    message: str
    fields: dict[str, Any]


class Alarms:
    """Those of this box. ``changed`` is called, by whichever thread, after a change."""

    def __init__(self, metrics: Metrics, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._gauge = metrics.alarm
        self._lock = threading.Lock()
        self._active: dict[AlarmName, Alarm] = {}
        self._ended: dict[AlarmName, int] = {}
        self.device = ""  # set once it is known
        self.changed: Callable[[], object] = lambda: None
        for name in AlarmName:
            self._gauge.labels(name.value).set(0)

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
            self._active.setdefault(alarm.name, alarm)
            self._gauge.labels(alarm.name.value).set(1)

    def raise_(self, name: AlarmName, message: str, **fields: Any) -> None:
        """``name`` holds, ``message`` says how; again and again while it does."""
        with self._lock:
            before = self._active.get(name)
            since = before.since if before else self._clock()
            alarm = Alarm(
                name=name,
                since=since,
                message=_plain(message),
                fields={key: _plain(value) for key, value in fields.items()},
            )
            self._active[name] = alarm
            self._gauge.labels(name.value).set(1)
        if before is None:
            log.error("alarm_raised", alarm=name.value, message=alarm.message, fields=alarm.fields)
            self.changed()

    def resolve(self, name: AlarmName) -> None:
        """``name`` does not hold, or no longer."""
        with self._lock:
            before = self._active.pop(name, None)
            if before is not None:
                self._ended[name] = self._clock()
            self._gauge.labels(name.value).set(0)
        if before is not None:
            log.warning("alarm_resolved", alarm=name.value, after_ms=self._clock() - before.since)
            self.changed()


def _plain(value: Any) -> Any:
    """What JSON can say: a room may pass what it has at hand, a path or an odd file name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:MESSAGE_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
