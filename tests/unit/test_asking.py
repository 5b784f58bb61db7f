"""A line is asked again only where nothing that came of it is stored, or about to be."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.records import make_result, new_database

from edge_store.api.inside import Answered
from edge_store.config import PrivacySection, QueueSection, RecorderSection, RepairSection
from edge_store.jsonrepair import JsonWorkers
from edge_store.queue.asking import Asking, Entry
from edge_store.queue.lines import LineState
from edge_store.queue.places import Place, Places
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.caller import Caller, Origin
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.slots import Slots
from edge_store.result import Boot
from edge_store.sqlite import Connection, DatabaseThread, open_reader

UNKNOWN = Answered(500, {"x-edge-store-durability": "none"}, b"{}")
CONFIG = QueueSection(retry_pause_s=0.001)


@pytest.fixture
def database(tmp_path: Path) -> tuple[Connection, Boot]:
    return new_database(tmp_path / "results.db")


@pytest.mark.parametrize("custom_id", ["line", None])
async def test_a_result_that_is_stored_while_nothing_may_start_is_not_asked_for_again(
    tmp_path: Path, database: tuple[Connection, Boot], custom_id: str | None
) -> None:
    connection, boot = database
    slots = Slots(RecorderSection(slots=16))
    slots.open()
    places = Places(slots, CONFIG, RecorderSection(slots=16))
    origin = Origin(batch_id="b", custom_id=custom_id)
    asked = 0

    async def ask(*_args: Any) -> Answered:
        nonlocal asked
        asked += 1
        places.open(is_open=False)  # the disk stalls
        return UNKNOWN

    async def body() -> bytes:
        return b"{}"

    reader = await DatabaseThread.open(lambda: open_reader(tmp_path / "results.db"))
    asking = Asking(
        ask=ask, change=ask, redacting=Redacting(PrivacySection(), JsonWorkers(RepairSection())),
        reader=reader, config=CONFIG, engine_failed=lambda: None
    )  # fmt: skip
    place = Place(places, 2)
    await place.take()
    entry = Entry("/generate", Caller(), origin, place, body)
    settling = asyncio.create_task(asking.settle(entry, 0, is_first=False))
    async with asyncio.timeout(60):
        while not places.waiting:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.001)
        fields = {"id": "b"} if custom_id is None else {}
        result = make_result(1, boot.boot_id, batch_id="b", custom_id=custom_id, **fields)
        write_batch(connection, boot, read_head(connection), 1, [result])
        places.open(is_open=True)
        assert await settling is LineState.COMPLETED
    await reader.close()
    assert asked == 1
    assert places.running == 0
