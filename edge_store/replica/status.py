"""How far the replica is, judged from positions over time. No input or output of its own."""

import time
from enum import StrEnum
from typing import Self

import msgspec

from edge_store.clock import now_ms
from edge_store.replica.control import Synced
from edge_store.replica.explain import is_full
from edge_store.replica.foreign import Foreign
from edge_store.replica.heads import Proven
from edge_store.replica.traffic import Usage
from edge_store.result import Record

__all__ = ["Cause", "Confirmed", "Health", "ReplicaState", "ReplicaStatus", "Tracker", "numbers"]

LAGGING_AFTER_S = 10.0  # behind for longer than a few replica syncs take
STALLED_AFTER_S = 20.0  # behind, and not one TXID further in that time
LAG_SLACK, STALL_SLACK = 1.5, 2.0  # intervals more, where it is taken up by asking only


class ReplicaState(StrEnum):
    """How replication is, from good to bad: what an operator has to know. ``meaning`` is what the
    commands and docs/operations.md say of it.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """A state and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = "ok", "what is committed is replicated within the lag of replica.profile"
    LAGGING = "lagging", "behind, and on its way: nobody has to act"
    OFFLINE = "offline", "the store does not answer; it catches up by itself once it does"
    STALLED = "stalled", "it gets no further, though the store answers: somebody has to look"
    BROKEN = "broken", "it is not, or no longer, this database's replica: somebody has to act"

    @property
    def level(self) -> int:
        """Its place, for a metric: 0 is ok."""
        return list(ReplicaState).index(self)


class Cause(StrEnum):
    """Why it is not ok. ``state`` is the state that comes of it, ``meaning`` what is shown."""

    state: ReplicaState
    meaning: str

    def __new__(cls, value: str, state: ReplicaState = ReplicaState.OK, meaning: str = "") -> Self:
        """A cause with its state and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.state = state
        member.meaning = meaning
        return member

    STARTING = "starting", ReplicaState.LAGGING, "nothing is known to be replicated yet"
    BEHIND = "behind", ReplicaState.LAGGING, "commits come faster than they are sent, for a while"
    RESTARTING = "restarting", ReplicaState.LAGGING, "Litestream has ended and is started again"
    NOT_RUNNING = (
        "not_running",
        ReplicaState.LAGGING,
        "the operator's Litestream does not answer, or must be started anew",
    )
    UNREACHABLE = "unreachable", ReplicaState.OFFLINE, "the store cannot be reached"
    FULL = "full", ReplicaState.STALLED, "the disk, or store, that the error names is full"
    UNMOVED = "unmoved", ReplicaState.STALLED, "Litestream runs and sends nothing"
    UNREAD = "unread", ReplicaState.STALLED, "Litestream has not read commits, nor will it"
    PAUSED = "paused", ReplicaState.STALLED, "it was paused by hand, until a time"
    STOPPED = "stopped", ReplicaState.STALLED, "Litestream does not run"
    TAKEN = "taken", ReplicaState.BROKEN, "another box writes to this box's replica"
    SWAPPED = "swapped", ReplicaState.BROKEN, "the database file is gone, or another one"


# What is passing; what lasts is a stall.
PASSING = (Cause.STARTING, Cause.RESTARTING, Cause.NOT_RUNNING)
# As which a full disk shows.
SILENT = (Cause.STARTING, Cause.BEHIND, Cause.UNREACHABLE, Cause.UNMOVED)


class Confirmed(Record, frozen=True, kw_only=True):
    """Every result up to ``seq`` was in the replica, which was at ``txid``, when ``at`` was."""

    seq: int
    txid: int
    at: int  # UTC ms


class Health(Record, frozen=True, kw_only=True):
    """What the last look at the box found. Bytes are those on this disk; ``at`` and ``gap_at`` are
    UTC ms. ``gaps``: how often unsent states were given up in this boot, to stay within the bound.
    ``drill_copy_bytes``: of the copy that the last drill has left for the next one.
    """

    at: int
    wal_bytes: int
    ltx_bytes: int
    local_bytes_max: int
    database_bytes: int
    disk_free_bytes: int
    drill_copy_bytes: int = 0
    results_behind: int | None = None  # committed, and not known to be in the replica
    foreign_writers: tuple[Foreign, ...] = ()
    gaps: int = 0
    gap_at: int | None = None


class ReplicaStatus(Record, frozen=True, kw_only=True):
    """The replica as last seen. ``lag_s`` is 0 when everything was replicated then, else the time
    since that was last so.
    """

    state: ReplicaState
    cause: Cause | None = None  # None when it is ok
    txid: int | None
    replicated_txid: int | None
    last_synced_at: int | None  # UTC ms: when everything was last known to be replicated
    lag_s: float
    error: str | None
    confirmed: Confirmed | None = None
    paused_until: int | None = None  # UTC ms
    health: Health | None = None  # None until the first look
    proven: Proven | None = None  # by the newest drill that passed
    drill_failure: str | None = None  # of the newest drill, if it failed
    usage: Usage | None = None  # of the store, as far as it is counted


class Tracker:
    """Turns what is seen into a status. Durations are monotonic. ``asked_every_s``: how often what
    was committed is taken up, where that is by asking; else 0.
    """

    def __init__(self, asked_every_s: float = 0.0) -> None:
        self._lagging_after_s = LAGGING_AFTER_S + LAG_SLACK * asked_every_s
        self.stalled_after_s = STALLED_AFTER_S + STALL_SLACK * asked_every_s
        self._uploaded = 0  # the TXID
        now = time.monotonic()
        self._positions: Synced | None = None
        self._synced_at: int | None = None
        self._behind_since: float | None = now  # None: not behind when last seen
        self._moved_at = now
        self._cause: Cause | None = None
        self._error: str | None = None
        self._confirmed: Confirmed | None = None
        self._confirmed_before: Confirmed | None = None  # at an earlier TXID
        self._unread_at: int | None = None  # the TXID at which commits are not seen any more
        self._is_lacking = False  # nor are they at any other
        self._awaited: tuple[int, int] | None = None  # (seq, txid) of an earlier look

    def saw(self, positions: Synced, seq: int | None = None) -> None:
        """Positions were read. ``seq`` is the newest result that had been committed before
        Litestream was asked: it is in the replica once that has this look's TXID.
        """
        self._is_lacking = False
        self._saw(positions, seq)

    def _saw(self, positions: Synced, seq: int | None = None) -> None:
        now = time.monotonic()
        if positions.replicated_txid < self._uploaded <= positions.txid:  # it has told so before
            positions = msgspec.structs.replace(positions, replicated_txid=self._uploaded)
        if self._is_lacking or positions.txid == self._unread_at:
            self._begin_lag()
            self._positions, self._cause = positions, Cause.UNREAD
            return
        self._unread_at = None
        self._confirm(positions, seq)
        before = self._positions
        if before is None or positions.replicated_txid != before.replicated_txid:
            self._moved_at = now
        self._positions = positions
        self._cause = None
        if positions.is_replicated and positions.replicated_txid > 0:
            self._behind_since, self._synced_at, self._moved_at = None, now_ms(), now
            self._error = None
        elif self._behind_since is None:
            self._behind_since = now

    def held(self, positions: Synced, seq: int | None) -> None:
        """As ``saw``; and Litestream has read the WAL as far as that."""
        self._unread_at = None
        self.saw(positions, seq)

    def missed(self, positions: Synced, *, is_unread: bool) -> None:
        """Litestream answers, and has not read what was committed before it was asked;
        ``is_unread``: nor will it.
        """
        self._is_lacking = is_unread
        if is_unread:
            self._awaited = None
        self._saw(positions)
        self._begin_lag()

    def unread(self, txid: int) -> None:
        """Results were committed after Litestream had answered with this TXID, and it answers with
        the same one: until it is another, nothing is confirmed, and what was at it is not any more.
        """
        self._unread_at = txid
        self._begin_lag()
        self._cause = Cause.UNREAD
        if self._confirmed is not None and self._confirmed.txid >= txid:
            self._confirmed = self._confirmed_before
        self._awaited = None

    def uploaded(self, txid: int) -> None:
        """Litestream says that it has just sent this TXID, which is the newest there."""
        self._uploaded = txid
        before = self._positions
        if before is not None and before.replicated_txid < txid:
            self._saw(Synced(txid=max(before.txid, txid), replicated_txid=txid))

    def remember(self, confirmed: Confirmed | None) -> None:
        """What was confirmed before a restart, unless more is known by now; None: the replica was
        begun anew, and of nothing is it known to be there.
        """
        if confirmed is None:
            self._confirmed = self._confirmed_before = self._awaited = None
        elif self._confirmed is None:
            self._confirmed = confirmed

    def _confirm(self, positions: Synced, seq: int | None) -> None:
        replicated = positions.replicated_txid
        if self._confirmed is not None and 0 < replicated < self._confirmed.txid:
            self._confirmed = self._confirmed_before = None  # gone back: who knows what it holds
        if seq is not None and positions.is_replicated and replicated > 0:
            self._note(Confirmed(seq=seq, txid=replicated, at=now_ms()))
            return
        if self._awaited is not None and replicated >= self._awaited[1]:
            self._note(Confirmed(seq=self._awaited[0], txid=replicated, at=now_ms()))
        # One at a time, until it is reached: under load no look finds everything replicated.
        if self._awaited is None and seq is not None and positions.txid > 0:
            self._awaited = (seq, positions.txid)

    def _note(self, confirmed: Confirmed) -> None:
        if self._confirmed is not None and self._confirmed.txid < confirmed.txid:
            self._confirmed_before = self._confirmed
        self._confirmed = confirmed
        self._awaited = None

    def hung(self, error: str) -> None:
        """Litestream waits for the store and answers nothing about it."""
        self._begin_lag()
        self._error = self._error or error
        self._cause = Cause.UNREACHABLE

    def ended(self, cause: Cause) -> None:
        """The process is gone: what is committed from now on waits."""
        self._begin_lag()
        self._cause = cause
        self._uploaded = 0
        self._unread_at, self._is_lacking = None, False

    def stopped(self, *, is_replicated: bool) -> None:
        """Replication has ended for good; whether the last commit is in the replica is known."""
        if not is_replicated:
            self._begin_lag()
        self._cause = Cause.STOPPED

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
        is_still = min(lag_s, now - self._moved_at) >= self.stalled_after_s
        cause = self._judge(lag_s, is_still=is_still)
        state = ReplicaState.OK if cause is None else cause.state
        if cause in PASSING and is_still:
            state = ReplicaState.STALLED
        return ReplicaStatus(
            state=state,
            cause=cause,
            txid=self._positions.txid if self._positions else None,
            replicated_txid=self._positions.replicated_txid if self._positions else None,
            last_synced_at=self._synced_at,
            lag_s=round(lag_s, 3),
            error=self._error,
            confirmed=self._confirmed,
        )

    def _judge(self, lag_s: float, *, is_still: bool) -> Cause | None:
        """Why it is not ok. A full disk is told at once: Litestream waits longer after each error,
        and in between it seems not to move, or not to answer.
        """
        cause = self._judge_moves(lag_s, is_still=is_still)
        is_waiting = self._behind_since is not None and cause in (None, *SILENT)
        return Cause.FULL if is_waiting and is_full(self._error or "") else cause

    def _judge_moves(self, lag_s: float, *, is_still: bool) -> Cause | None:
        if self._cause is not None:
            return self._cause
        if is_still:
            return Cause.UNMOVED
        is_known = self._positions is not None and self._positions.replicated_txid > 0
        if self._synced_at is None or not is_known:
            return Cause.STARTING
        return Cause.BEHIND if lag_s >= self._lagging_after_s else None


def numbers(status: ReplicaStatus) -> dict[str, object]:
    """What a line of the log says of it."""
    return {
        "state": status.state.value,
        "cause": status.cause,
        "txid": status.txid,
        "replicated_txid": status.replicated_txid,
        "lag_s": status.lag_s,
    }
