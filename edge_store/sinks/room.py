"""The sinks of a box, pushed to beside requests: each by a task of its own, so that one that hangs
or fails is in nobody's way.
"""

import asyncio

from edge_store.alerts import AlarmName, Alarms
from edge_store.config import SinkSection
from edge_store.errors import EdgeStoreError
from edge_store.loggers import get_logger
from edge_store.recorder.around import Around
from edge_store.sinks.following import Follower, Trouble
from edge_store.sinks.kinds import make_sink
from edge_store.sinks.sink import place_of
from edge_store.sqlite import DatabaseThread, open_reader

__all__ = ["push"]

log = get_logger(__name__)

PAUSE_S = 30.0  # after a failure that is not the sink's


async def push(around: Around) -> None:
    """Push to each of ``[[sinks]]`` until the daemon stops; at once where there is none."""
    trouble = Trouble(lambda found: _tell(around.alarms, found))
    if not around.config.sinks:
        _tell(around.alarms, trouble)  # none: those of a boot that had sinks are over
        return
    reader = await DatabaseThread.open(lambda: open_reader(around.path))
    try:
        async with asyncio.TaskGroup() as tasks:
            for config in around.config.sinks:
                tasks.create_task(_kept_up(config, around, reader, trouble))
    finally:
        await reader.close()


async def _kept_up(
    config: SinkSection, around: Around, reader: DatabaseThread, trouble: Trouble
) -> None:
    """What fails in one, be it a defect, ends no other."""
    while True:
        follower = Follower(
            config, around, reader, trouble,
            lambda: make_sink(config, place_of(config), around.boot.device_id),
        )  # fmt: skip
        try:
            await follower.run()
        except EdgeStoreError as exc:  # of the database
            log.warning("sink_interrupted", sink=config.name, code=exc.code, error=str(exc))
        except Exception:
            log.exception("sink_interrupted", sink=config.name)
        else:
            return
        await asyncio.sleep(PAUSE_S)


def _tell(alarms: Alarms, trouble: Trouble) -> None:
    if trouble.behind:
        alarms.raise_(AlarmName.SINK_BEHIND, "; ".join(trouble.behind.values()))
    else:
        alarms.resolve(AlarmName.SINK_BEHIND)
    if trouble.letters:
        counts = ", ".join(f"{name}: {number}" for name, number in trouble.letters.items())
        alarms.raise_(AlarmName.SINK_LETTERS, f"refused results: {counts}")
    else:
        alarms.resolve(AlarmName.SINK_LETTERS)
