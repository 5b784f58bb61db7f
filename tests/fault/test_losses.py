"""What the writer gives up is told at once, and is a row as soon as one can be stored."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.faults import Faults, faulty
from support.records import make_result
from support.scripted import DEADLINE_S, Recording, chat_body, recording, replay

from edge_store.chain import verify_chain
from edge_store.config import RecorderSection
from edge_store.errors import StoreError
from edge_store.observability.metrics import Metrics
from edge_store.recorder.losses import LOSSES_MAX, PER_COMMIT, Losses
from edge_store.result import Output, Result
from edge_store.sqlite import driver, open_reader

SCRIPT = replay([chat_body("x")])
CONFIG = RecorderSection(beat_s=0.02, commit_timeout_s=0.1)
UNSTORABLE = (Output(choice_index=2**64, output_text="x"),)  # NOT NULL: cannot be dropped


def losses(path: Path) -> list[tuple[Any, ...]]:
    reader = open_reader(path)
    try:
        assert verify_chain(reader).faults == ()
        query = "SELECT boot_seq, id, code, message FROM losses ORDER BY loss_id"
        return reader.execute(query).fetchall()
    finally:
        reader.close()


async def until_losses(path: Path, count: int) -> list[tuple[Any, ...]]:
    async with asyncio.timeout(DEADLINE_S):
        while len(losses(path)) < count:  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.01)
    return losses(path)


async def lose(running: Recording, **changes: Any) -> Result:
    slot = await running.recorder.slots.reserve()
    result = make_result(slot.boot_seq, running.boot.boot_id, **changes)
    with pytest.raises(StoreError):
        await running.writer.submit(result, slot)
    return result


async def test_a_row_beyond_saving_is_a_loss_within_a_beat(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    with capture_logs() as logs:
        async with recording(path, SCRIPT, config=CONFIG) as running:
            result = await lose(running, outputs=UNSTORABLE)
            ((boot_seq, result_id, code, message),) = await until_losses(path, 1)
    assert (boot_seq, result_id, code) == (1, result.id, "store_error")
    assert "cannot be stored" in message
    told = [line for line in logs if line["event"] == "result_lost"]
    assert [(line["id"], line["log_level"]) for line in told] == [(result.id, "error")]


@pytest.mark.parametrize("code", [driver.SQLITE_IOERR, driver.SQLITE_BUSY], ids=["io", "busy"])
async def test_what_outlasts_the_deadline_is_a_loss_once_the_disk_is_back(
    tmp_path: Path, code: int
) -> None:
    path = tmp_path / "results.db"
    faults = Faults(code, at=1, lasting=True)
    async with recording(path, SCRIPT, config=CONFIG, connected=faulty(faults)) as running:
        faults.is_armed = True
        result = await lose(running)
        async with asyncio.timeout(DEADLINE_S):
            await running.recorder.slots.drained()
        assert losses(path) == []
        faults.mend()
        ((_, result_id, loss_code, _),) = await until_losses(path, 1)
    assert (result_id, loss_code) == (result.id, "store_error")
    assert running.stored() == []


async def test_a_loss_of_the_last_moment_is_stored_with_the_last_mark(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    config = RecorderSection(beat_s=60)
    async with recording(path, SCRIPT, config=config) as running:
        result = await lose(running, outputs=UNSTORABLE)
        assert losses(path) == [], "no beat has come"
    assert [row[1] for row in losses(path)] == [result.id]


async def test_a_full_disk_makes_losses_and_their_count_is_what_callers_saw(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.db"
    faults = Faults(driver.SQLITE_FULL, at=1, lasting=True)
    async with recording(path, SCRIPT, config=CONFIG, connected=faulty(faults)) as running:
        held = [await running.recorder.slots.reserve() for _ in range(5)]
        faults.is_armed = True
        results = [make_result(slot.boot_seq, running.boot.boot_id) for slot in held]
        outcomes = await asyncio.gather(
            *(running.writer.submit(r, s) for r, s in zip(results, held, strict=True)),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
        faults.mend()
        found = await until_losses(path, 5)
    assert [(row[0], row[1], row[2]) for row in found] == [
        (result.boot_seq, result.id, "disk_full") for result in results
    ]


async def test_more_losses_than_one_commit_carries_are_all_stored(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    count = PER_COMMIT + 3
    async with recording(path, SCRIPT, config=CONFIG) as running:
        await asyncio.gather(*(lose(running, outputs=UNSTORABLE) for _ in range(count)))
    assert [row[0] for row in losses(path)] == list(range(1, count + 1))


def test_losses_are_bounded_and_those_past_the_bound_are_counted() -> None:
    metrics = Metrics()
    waiting = Losses(metrics)
    result = make_result()
    error = StoreError("a lone surrogate: \ud800")
    with capture_logs() as logs:
        for _ in range(LOSSES_MAX + 2):
            waiting.add(result, error)
    assert len(waiting) == LOSSES_MAX
    assert [line["is_kept"] for line in logs[-3:]] == [True, False, False]
    lost = f'edge_store_lost_total{{code="store_error"}} {float(LOSSES_MAX + 2)}'
    assert lost in metrics.exposition().decode()
    waiting.first()[0].message.encode()  # it can be stored
