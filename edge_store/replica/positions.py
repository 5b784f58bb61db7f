"""Asks Litestream again and again how far it is, while it runs.

One question at a time: while Litestream waits for a store that does not answer, so does every
question, and an abandoned one goes on inside it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from edge_store.errors import ReplicationError
from edge_store.replica.control import Synced
from edge_store.replica.status import Cause, Tracker, numbers

__all__ = ["watch_positions"]

log = structlog.get_logger(__name__)

COUNT_EVERY_S = 5.0
# Results of ordinary size: 45 MB of WAL; at 200 MB Litestream stops the writer.
WAITING_MAX = 10_000
ANSWER_TIMEOUT_S = 3.0  # then the store is called unreachable


async def watch_positions(
    ask: Callable[[], Awaitable[Synced | Cause]],
    tracker: Tracker,
    newest_seq: Callable[[], int | None],
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
        seq: int | None = None
        while True:
            if asked is None:
                seq = newest_seq()
                asked = questions.create_task(_asked(ask))
            await asyncio.wait({asked}, timeout=ANSWER_TIMEOUT_S)
            if not asked.done():
                tracker.hung("litestream waits for the store, which does not answer")
            else:
                seen, asked = asked.result(), None
                if isinstance(seen, Synced):
                    if _is_unread(looks, seen.txid, seq):
                        tracker.unread(seen.txid)
                    looks.append((seen.txid, seq))
                    tracker.saw(seen, seq)
                elif isinstance(seen, Cause):
                    tracker.ended(seen)
                else:
                    tracker.hung(str(seen))
            if tracker.status.state != state:
                state = tracker.status.state
                log.info("replica_state_changed", **numbers(tracker.status))
            ends_at = time.monotonic() + interval_s
            while (  # noqa: ASYNC110  (the writer tells nobody of each result)
                left_s := ends_at - time.monotonic()
            ) > 0 and not _are_more(newest_seq(), seq, waiting_max):
                await asyncio.sleep(min(left_s, COUNT_EVERY_S))


def _are_more(newest: int | None, asked: int | None, waiting_max: int) -> bool:
    if newest is None or asked is None:
        return False
    return newest - asked > waiting_max


def _is_unread(looks: Sequence[tuple[int, int | None]], txid: int, seq: int | None) -> bool:
    """Whether Litestream has not seen a commit: its answers to the two questions before were this
    TXID, too, and a result was committed since the second was asked. One before it could have been
    in the first answer; one since, known of at once or nearly so, makes another TXID.

    Seen with a damaged checksum in the WAL: Litestream takes what follows for the end of it.
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
