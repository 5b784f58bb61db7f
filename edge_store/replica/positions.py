"""Asks Litestream again and again how far it is, while it runs.

One question at a time: while Litestream waits for a store that does not answer, so does every
question, and an abandoned one goes on inside it. What its answer says is believed of a result only
where Litestream has read the WAL so far (``reached.py``).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from edge_store.errors import ReplicationError
from edge_store.loggers import get_logger
from edge_store.replica.control import Control, Synced
from edge_store.replica.reached import UNREADABLE, Reached, Read, Upto
from edge_store.replica.status import Cause, Tracker, numbers

__all__ = ["Positions", "watch_positions"]

log = get_logger(__name__)

COUNT_EVERY_S = 5.0
# Results of ordinary size: 45 MB of WAL; at 200 MB Litestream stops the writer.
WAITING_MAX = 10_000
ANSWER_TIMEOUT_S = 3.0  # then the store is called unreachable
AGAIN_S = 0.05
REST_S = 1.0  # between two questions, where an answer took most of the interval
SKIPPED = (
    "another program has checkpointed, and Litestream lacks commits by it: end what else has the "
    "database open for writing; `edge-store replica drill` has the database uploaded anew"
)


class Question(NamedTuple):
    """What was committed before Litestream was asked."""

    seq: int | None
    written: Upto | None


class Positions:
    """What is asked of Litestream, and what its answers say of the results. ``newest_seq`` gives
    the newest one that is committed.

    Once it has passed over commits they stay so until it takes the whole database anew: after the
    next checkpoint its files hold all of a WAL, and not what was in the one before.
    """

    def __init__(self, tracker: Tracker, reached: Reached) -> None:
        self._tracker = tracker
        self._reached = reached
        self.newest_seq: Callable[[], int | None] = lambda: None
        self._missed_at: int | None = None  # the TXID of an answer that did not have all
        self._passed_over: bytes | None = None  # commits of the WAL of these salts
        self._is_skipped = False  # the end of a WAL that is gone

    @property
    def has_passed_over(self) -> bool:
        """Whether there are commits that it does not see."""
        return self._passed_over is not None or self._is_skipped

    def anew(self) -> None:
        """From here on it takes the whole database."""
        self._missed_at = self._passed_over = None
        self._is_skipped = False
        self._reached.anew()

    def committed(self) -> None:
        """There was a COMMIT."""
        self._reached.written()

    def proven(self, txid: int) -> None:
        """A restore of ``txid`` has all that was committed before it was begun."""
        self._reached.proven(txid)

    def question(self) -> Question:
        """To be asked from now on. What is committed later may not be in the answer."""
        seq = self.newest_seq()  # first: the WAL then has it
        return Question(seq, self._reached.written())

    def answered(self, asked: Question, synced: Synced) -> Read:
        """Confirm what is known to be in the replica by this answer."""
        read = self._reached.judge(asked.written, synced.txid)
        if self._is_skipped is not (read is Read.SKIPPED):
            self._is_skipped = read is Read.SKIPPED
            self._tell_of_skipped(synced.txid)
        if self._passed_over is not None and not self._is_skipped:
            salts = _salts(asked.written)
            if read is Read.HELD and salts == self._passed_over:
                self._passed_over = None  # it has seen them after all
            else:
                read = Read.MISSED
        match read:
            case Read.HELD:
                self._tracker.held(synced, asked.seq)
            case Read.UNKNOWN:
                self._tracker.saw(synced, asked.seq)
            case Read.RESTARTED:
                self._tracker.saw(synced)
            case Read.MISSED:
                self._missed(asked, synced)
            case Read.SKIPPED:
                self._tracker.missed(synced, is_unread=True)
        return read

    def _tell_of_skipped(self, txid: int) -> None:
        if self._is_skipped:
            self._tracker.failed(SKIPPED)
            log.error("commits_skipped", txid=txid, hint=SKIPPED)
        else:
            log.warning("commits_not_skipped", txid=txid)

    def _missed(self, asked: Question, synced: Synced) -> None:
        """Once may be by chance; twice at one TXID it does not see what is there."""
        is_known = asked.written != UNREADABLE
        if self._passed_over is None and is_known and synced.txid == self._missed_at:
            self._passed_over = _salts(asked.written)
        self._missed_at = synced.txid
        self._tracker.missed(synced, is_unread=self.has_passed_over)

    async def sync(self, control: Control, timeout_s: float) -> Synced:
        """Wait until everything committed before this call is in the replica. Safe to cancel.

        Raises:
            ReplicationError: it is not, within about ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            asked = self.question()
            synced = await control.sync(max(0.0, deadline - time.monotonic()))
            if self.answered(asked, synced) in (Read.HELD, Read.UNKNOWN):
                return synced
            if self.has_passed_over or time.monotonic() >= deadline:
                raise ReplicationError(
                    f"litestream has not read all that is committed: it is at TXID "
                    f"{synced.txid:016x}",
                    hint="`edge-store replica drill` has the database uploaded anew",
                )
            await asyncio.sleep(AGAIN_S)


async def watch_positions(
    ask: Callable[[], Awaitable[Synced | Cause]],
    tracker: Tracker,
    positions: Positions,
    *,
    interval_s: float,
    waiting_max: int = WAITING_MAX,
) -> None:
    """Look every ``interval_s`` until cancelled. ``ask`` gives the positions, or why there are
    none; or raises ``ReplicationError``. It asks earlier once more than
    ``waiting_max`` results have been committed since it asked.
    """
    looks: deque[tuple[int, int | None]] = deque(maxlen=2)
    async with asyncio.TaskGroup() as questions:
        state = tracker.status.state
        asked: asyncio.Task[Synced | Cause | ReplicationError] | None = None
        question = Question(None, None)
        asked_at = 0.0
        while True:
            if asked is None:
                asked_at = time.monotonic()
                question = positions.question()
                asked = questions.create_task(_asked(ask))
            await asyncio.wait({asked}, timeout=ANSWER_TIMEOUT_S)
            if not asked.done():
                tracker.hung("litestream waits for the store, which does not answer")
            else:
                seen, asked = asked.result(), None
                if isinstance(seen, Synced):
                    read = positions.answered(question, seen)
                    if read is Read.UNKNOWN and _is_unread(looks, seen.txid, question.seq):
                        tracker.unread(seen.txid)
                    looks.append((seen.txid, question.seq))
                elif isinstance(seen, Cause):
                    tracker.ended(seen)
                else:
                    tracker.hung(str(seen))
            if tracker.status.state != state:
                state = tracker.status.state
                log.info("replica_state_changed", **numbers(tracker.status))
            if asked is not None:
                continue  # it is taken up as it comes: a late one makes the next no later
            ends_at = max(asked_at + interval_s, time.monotonic() + min(interval_s, REST_S))
            while (  # noqa: ASYNC110  (the writer tells nobody of each result)
                left_s := ends_at - time.monotonic()
            ) > 0 and not _are_more(positions.newest_seq(), question.seq, waiting_max):
                await asyncio.sleep(min(left_s, COUNT_EVERY_S))


def _salts(written: Upto | None) -> bytes:
    return written.salts if written is not None else b""


def _are_more(newest: int | None, asked: int | None, waiting_max: int) -> bool:
    if newest is None or asked is None:
        return False
    return newest - asked > waiting_max


def _is_unread(looks: Sequence[tuple[int, int | None]], txid: int, seq: int | None) -> bool:
    """Whether Litestream has not seen a commit: its answers to the two questions before were this
    TXID, too, and a result was committed since the second was asked. One before it could have been
    in the first answer; one since, known of at once or nearly so, makes another TXID.

    Seen with a damaged checksum in the WAL: Litestream takes what follows for the end of it. For a
    Litestream whose files are not found; of another it is known at once.
    """
    if seq is None or len(looks) < 2 or any(each != txid for each, _seq in looks):
        return False
    before = looks[-1][1]
    return before is not None and seq > before


async def _asked(
    ask: Callable[[], Awaitable[Synced | Cause]],
) -> Synced | Cause | ReplicationError:
    try:
        return await ask()
    except ReplicationError as exc:
        return exc
