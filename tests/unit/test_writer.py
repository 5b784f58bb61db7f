"""What shares a COMMIT."""

import asyncio
import time
from pathlib import Path

import msgspec
import structlog
from support.records import make_result
from support.scripted import chat_body, recording, replay

from edge_store.config import RecorderSection
from edge_store.recorder import writer as writing
from edge_store.result import Receipt
from edge_store.sqlite import open_reader, open_writer

SCRIPT = replay([chat_body("x")])


def commit_sizes(path: Path) -> list[int]:
    reader = open_reader(path)
    try:
        rows = reader.execute("SELECT seq_to - seq_from + 1 FROM commits WHERE seq_from > 0")
        return [size for (size,) in rows]
    finally:
        reader.close()


async def test_what_a_busy_loop_is_about_to_bring_shares_the_commit(tmp_path: Path) -> None:
    async with recording(tmp_path / "a.db", SCRIPT) as running:
        arrived: list[asyncio.Future[Receipt]] = []
        for number in range(1, 9):  # one result in each turn of the loop
            result = make_result(number, running.boot.boot_id)
            arrived.append(running.writer.enqueue(result))
            await asyncio.sleep(0)
        await asyncio.gather(*arrived)
    assert commit_sizes(tmp_path / "a.db") == [8]


async def test_a_commit_carries_so_many_bytes_at_most(tmp_path: Path) -> None:
    """Of results of 10 kB two each; one that is larger than the bound goes alone."""
    config = RecorderSection(beat_s=0.05, batch_bytes_max=25_000)
    async with recording(tmp_path / "a.db", SCRIPT, config=config) as running:
        arrived = []
        for number, size in enumerate([10_000] * 4 + [50_000] + [10_000] * 2, 1):
            result = make_result(number, running.boot.boot_id)
            content = msgspec.structs.replace(result.content, response_body=bytes(size))
            result = msgspec.structs.replace(result, content=content)
            arrived.append(running.writer.enqueue(result))
        await asyncio.gather(*arrived)
    assert commit_sizes(tmp_path / "a.db") == [2, 2, 1, 2]


async def test_a_loop_that_is_never_idle_does_not_hold_a_commit_back(tmp_path: Path) -> None:
    async with recording(tmp_path / "a.db", SCRIPT) as running:
        first = running.writer.enqueue(make_result(1, running.boot.boot_id))
        arrived = [first]
        async with asyncio.timeout(1000 * writing.GATHER_S):
            while not first.done():
                number = len(arrived) + 1
                arrived.append(running.writer.enqueue(make_result(number, running.boot.boot_id)))
                time.sleep(0.0005)  # noqa: ASYNC251  (a busy loop is what is tested)
                await asyncio.sleep(0)
        await asyncio.gather(*arrived)
    sizes = commit_sizes(tmp_path / "a.db")
    assert sum(sizes) == len(arrived)
    assert len(sizes) > 1


async def test_a_commit_that_takes_over_a_second_is_told(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as said:
        async with recording(tmp_path / "a.db", SCRIPT) as running:
            other = open_writer(tmp_path / "a.db")
            other.execute("BEGIN IMMEDIATE")  # so the writer waits, as it would for a slow disk
            asyncio.get_running_loop().call_later(1.2, other.close)
            await running.writer.submit(make_result(1, running.boot.boot_id))
    (told,) = [event for event in said if event["event"] == "commit_slow"]
    assert told["rows"] == 1
    assert 1 < told["seconds"] < 60
    assert told["flush_seconds"] < told["seconds"]
