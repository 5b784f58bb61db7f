"""The rooms that work beside requests while the daemon runs. None of them may end it: one that
fails is logged, and begins again after a pause.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from edge_store.errors import EdgeStoreError
from edge_store.loggers import get_logger
from edge_store.recorder.around import Around
from edge_store.retention.room import retain
from edge_store.search.following import follow
from edge_store.sinks.room import push

__all__ = ["working_beside"]

log = get_logger(__name__)

PAUSES_S = (1.0, 5.0, 30.0, 120.0)  # after each failure; the last one again and again
SOUND_FOR_S = 600.0  # after this long, a failure counts as the first

# Each runs until it is cancelled.
ROOMS: dict[str, Callable[[Around], Awaitable[None]]] = {
    "retention": retain,
    "search": follow,
    "sinks": push,
}


@asynccontextmanager
async def working_beside(around: Around) -> AsyncIterator[None]:
    """They work meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(_kept_up(name, work, around)) for name, work in ROOMS.items()]
        try:
            yield
        finally:
            for task in started:
                task.cancel()


async def _kept_up(name: str, work: Callable[[Around], Awaitable[None]], around: Around) -> None:
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began = loop.time()
        try:
            await work(around)
        except EdgeStoreError as exc:
            log.warning("room_failed", room=name, code=exc.code, error=str(exc))
        except Exception:
            log.exception("room_failed", room=name)
        else:
            return  # it has nothing to do here
        failures = 1 if loop.time() - began > SOUND_FOR_S else failures + 1
        await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S)) - 1])
