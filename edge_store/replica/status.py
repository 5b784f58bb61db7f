"""How far the replica is, judged from positions over time. No input or output of its own."""

import time
from enum import StrEnum

from edge_store.clock import now_ms
from edge_store.replica.control import Synced
from edge_store.result import Record

__all__ = ["Confirmed", "ReplicaState", "ReplicaStatus", "Tracker"]

LAGGING_AFTER_S = 10.0  # behind for longer than a few replica syncs take
UNREACHABLE_AFTER_S = 20.0  # behind, and not one TXID further in that time


class ReplicaState(StrEnum):
    """What replication is doing."""

    STARTING = "starting"  # nothing is known to be replicated yet
    REPLICATING = "replicating"
    LAGGING = "lagging"  # behind for a while, but moving
    UNREACHABLE = "unreachable"  # the store takes nothing
    RESTARTING = "restarting"  # litestream has ended and will be started again
    TAKEN = "taken"  # another box writes to this box's path; nothing is replicated
    STOPPED = "stopped"


class Confirmed(Record, frozen=True, kw_only=True):
    """Every result up to ``seq`` was in the replica, which was at ``txid``, when ``at`` was."""

    seq: int
    txid: int
    at: int  # UTC ms


class ReplicaStatus(Record, frozen=True, kw_only=True):
    """The replica as last seen. ``lag_s`` is 0 when everything was replicated then, else the time
    since that was last so.
    """

    state: ReplicaState
    txid: int | None
    replicated_txid: int | None
    last_synced_at: int | None  # UTC ms: when everything was last known to be replicated
    lag_s: float
    error: str | None
    confirmed: Confirmed | None = None


class Tracker:
    """Turns what is seen into a status. Durations are monotonic."""

    def __init__(self) -> None:
        now = time.monotonic()
        self._positions: Synced | None = None
        self._synced_at: int | None = None
        self._behind_since: float | None = now  # None: not behind when last seen
        self._moved_at = now
        self._override: ReplicaState | None = None
        self._error: str | None = None
        self._confirmed: Confirmed | None = None
        self._awaited: tuple[int, int] | None = None  # (seq, txid) of an earlier look

    def saw(self, positions: Synced, seq: int | None = None) -> None:
        """Positions were read. ``seq`` is the newest result that had been committed before
        Litestream was asked: it is in the replica once that has this look's TXID.
        """
        now = time.monotonic()
        self._confirm(positions, seq)
        before = self._positions
        if before is None or positions.replicated_txid != before.replicated_txid:
            self._moved_at = now
        self._positions = positions
        self._override = None
        if positions.is_replicated and positions.replicated_txid > 0:
            self._behind_since, self._synced_at, self._moved_at = None, now_ms(), now
            self._error = None
        elif self._behind_since is None:
            self._behind_since = now

    def _confirm(self, positions: Synced, seq: int | None) -> None:
        replicated = positions.replicated_txid
        if seq is not None and positions.is_replicated and replicated > 0:
            self._confirmed = Confirmed(seq=seq, txid=replicated, at=now_ms())
            self._awaited = None
            return
        if self._awaited is not None and replicated >= self._awaited[1]:
            self._confirmed = Confirmed(seq=self._awaited[0], txid=replicated, at=now_ms())
            self._awaited = None
        # One at a time, until it is reached: under load no look finds everything replicated.
        if self._awaited is None and seq is not None and positions.txid > 0:
            self._awaited = (seq, positions.txid)

    def hung(self, error: str) -> None:
        """Litestream waits for the store and answers nothing about it."""
        self._begin_lag()
        self._error = self._error or error
        self._override = ReplicaState.UNREACHABLE

    def ended(self, state: ReplicaState) -> None:
        """The process is gone: what is committed from now on waits."""
        self._begin_lag()
        self._override = state

    def stopped(self, *, is_replicated: bool) -> None:
        """Replication has ended for good; whether the last commit is in the replica is known."""
        if not is_replicated:
            self._begin_lag()
        self._override = ReplicaState.STOPPED

    def failed(self, error: str) -> None:
        """Litestream reported an error; it is shown until everything is replicated again."""
        self._error = error

    def _begin_lag(self) -> None:
        if self._behind_since is None:
            self._behind_since = time.monotonic()

    @property
    def status(self) -> ReplicaStatus:
        """As of now."""
        now = time.monotonic()
        lag_s = 0.0 if self._behind_since is None else now - self._behind_since
        return ReplicaStatus(
            state=self._override or self._judge(lag_s, now - self._moved_at),
            txid=self._positions.txid if self._positions else None,
            replicated_txid=self._positions.replicated_txid if self._positions else None,
            last_synced_at=self._synced_at,
            lag_s=round(lag_s, 3),
            error=self._error,
            confirmed=self._confirmed,
        )

    def _judge(self, lag_s: float, still_s: float) -> ReplicaState:
        if lag_s >= UNREACHABLE_AFTER_S and still_s >= UNREACHABLE_AFTER_S:
            return ReplicaState.UNREACHABLE
        if self._synced_at is None:
            return ReplicaState.STARTING
        return ReplicaState.LAGGING if lag_s >= LAGGING_AFTER_S else ReplicaState.REPLICATING
