"""Looks at what replication leaves on this box, every 30 s, and acts where nobody has to be asked.

Bytes on the disk are kept within their bound; a database file that was swapped underneath, another
writer, a stall and a long pause are alarms. The looks run on a thread: they take what a scan of
Litestream's folder takes, and the next one waits the longer for it.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edge_store.alerts import AlarmName, Alarms
from edge_store.clock import now_ms, rfc3339
from edge_store.errors import ReplicationError, StoreError
from edge_store.loggers import get_logger
from edge_store.place import Place
from edge_store.replica.foreign import Foreign, foreign_writers
from edge_store.replica.kept import copy_bytes
from edge_store.replica.local import Held, MayPause, has_outgrown, make_room, measure
from edge_store.replica.pause import Paused
from edge_store.replica.status import Cause, Health, ReplicaState, ReplicaStatus
from edge_store.sqlite import DatabaseThread

__all__ = ["LOOK_EVERY_S", "Watch"]

log = get_logger(__name__)

LOOK_EVERY_S = 30.0
LOOK_SHARE = 1 / 500  # of the time, at most: days offline leave 100,000 files, 0.5 s to scan
STALLED_LOOKS = 2  # in a row, before somebody is called
PAUSE_ALARM_MS = 3600 * 1000

SWAPPED_HINT = "see which file is the right one: the replica is of the one that was there"


class Watch:
    """Of one box. ``health`` is what the last look found, ``is_swapped`` whether the path leads to
    another file than the one that is open.
    """

    def __init__(
        self,
        path: Path,
        ltx: Path,
        database: DatabaseThread,
        alarms: Alarms,
        *,
        local_bytes_max: int,
        may_make_room: bool = True,
    ) -> None:
        self._path, self._ltx = path, ltx
        self._database = database
        self._alarms = alarms
        self._local_bytes_max = local_bytes_max
        self._may_make_room = may_make_room
        self._place = Place(path)
        self._stalled_looks = 0
        self._gaps = 0
        self._gap_at: int | None = None
        self.health: Health | None = None
        self.is_swapped = False
        self.newest_seq: Callable[[], int | None] = lambda: None

    def look_at_file(self) -> bool:
        """Whether the path leads to another file than the one that is open; an alarm then."""
        self._judge_file()
        return self.is_swapped

    async def look(self, status: ReplicaStatus, paused: Paused | None, child: int | None) -> float:
        """Look once. ``child`` is Litestream's process. Returns after how long to look again."""
        began = time.monotonic()
        try:
            held, free, foreign = await asyncio.to_thread(self._measure, child)
        except OSError as exc:  # a disk that fails: what the last look found stands
            log.error("replica_not_looked_at", error=f"{exc.filename}: {exc.strerror}")
            self._judge_file()
            self._judge_state(status, paused)
            return LOOK_EVERY_S
        took = time.monotonic() - began
        newest = self.newest_seq()
        known = status.confirmed.seq if status.confirmed else None
        self.health = Health(
            at=now_ms(),
            wal_bytes=held.wal_bytes,
            ltx_bytes=held.ltx_bytes,
            local_bytes_max=self._local_bytes_max,
            database_bytes=held.database_bytes,
            disk_free_bytes=free,
            drill_copy_bytes=copy_bytes(self._path),
            results_behind=None if newest is None or known is None else max(0, newest - known),
            foreign_writers=foreign,
            gaps=self._gaps,
            gap_at=self._gap_at,
        )
        self._judge_file()
        self._judge_writers(foreign)
        self._judge_state(status, paused)
        return max(LOOK_EVERY_S, took / LOOK_SHARE)

    async def keep_bounded(self, litestream: MayPause, state: ReplicaState) -> None:
        """Make room when the last look found more than the bound."""
        health = self.health
        if health is None or self.is_swapped or not self._may_make_room:
            return
        held = Held(
            wal_bytes=health.wal_bytes,
            ltx_bytes=health.ltx_bytes,
            ltx_files=0,
            database_bytes=health.database_bytes,
        )
        if not has_outgrown(held, self._local_bytes_max, state):
            return
        try:
            await make_room(litestream, self._database, self._path, self._ltx)
        except (ReplicationError, StoreError) as exc:
            log.error("replica_room_not_made", code=exc.code, error=str(exc), hint=exc.hint)
            return
        self._gaps += 1
        self._gap_at = now_ms()
        log.warning(
            "replica_room_made",
            bytes=held.bytes,
            local_bytes_max=self._local_bytes_max,
            consequence="the states since the last replicated one cannot be restored to; all of "
            "the database is uploaded once the store answers",
        )

    def _measure(self, child: int | None) -> tuple[Held, int, tuple[Foreign, ...]]:
        ours = frozenset((os.getpid(), child or 0))
        return (
            measure(self._path, self._ltx),
            shutil.disk_usage(self._path.parent).free,
            foreign_writers(self._path, ours),
        )

    def _judge_file(self) -> None:
        """A file that was swapped is not this boot's: Litestream must not take it for that."""
        is_swapped = self._place.is_left
        if is_swapped and not self.is_swapped:
            log.error("database_swapped", path=str(self._path), hint=SWAPPED_HINT)
        elif self.is_swapped and not is_swapped:
            log.warning("database_back", path=str(self._path))
        self.is_swapped = is_swapped
        self._set(
            AlarmName.REPLICA_BROKEN,
            f"{self._path} is gone, or another file lies in its place: {SWAPPED_HINT}."
            if is_swapped
            else None,
        )

    def _judge_writers(self, foreign: tuple[Foreign, ...]) -> None:
        named = ", ".join(f"{each.program} ({each.process_id})" for each in foreign)
        self._set(
            AlarmName.FOREIGN_WRITER,
            f"{named} has {self._path} open for writing: end it, and prove the replica with "
            "`edge-store replica drill`; to read, open the file read-only."
            if foreign
            else None,
        )

    def _judge_state(self, status: ReplicaStatus, paused: Paused | None) -> None:
        is_stalled = status.state is ReplicaState.STALLED and status.cause is not Cause.PAUSED
        self._stalled_looks = self._stalled_looks + 1 if is_stalled else 0
        if not is_stalled or self._stalled_looks >= STALLED_LOOKS:
            cause = status.cause.meaning if status.cause else ""
            self._set(
                AlarmName.REPLICA_STALLED,
                f"For {status.lag_s:.0f} s: {cause}. {status.error or ''}" if is_stalled else None,
            )
        is_long = paused is not None and now_ms() - paused.since > PAUSE_ALARM_MS
        self._set(
            AlarmName.REPLICA_PAUSED,
            f"Since {rfc3339(paused.since)}, until {rfc3339(paused.until)}: `edge-store replica "
            "resume` ends it."
            if paused is not None and is_long
            else None,
        )

    def _set(self, name: AlarmName, message: str | None) -> None:
        if message is None:
            self._alarms.resolve(name)
        else:
            self._alarms.raise_(name, message)
