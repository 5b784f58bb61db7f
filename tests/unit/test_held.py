"""Texts that wait outside of the database."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.records import new_database

from edge_store.config import Config, Detector, PrivacySection, QueueSection, RepairSection
from edge_store.errors import NotFound, QueueFull, StoreError, TenantOverShare
from edge_store.jsonrepair import JsonWorkers
from edge_store.queue.held import Held
from edge_store.queue.room import Queue
from edge_store.recorder.caller import Caller
from edge_store.recorder.redacting import Redacting

BODY = b'{"messages": "to ada@example.org"}'
LEFT = b'{"messages": "to [REDACTED:email]"}'


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    privacy = PrivacySection(detectors=(Detector.EMAIL,), rules={"slow": r"(a|aa)+$"})
    async with JsonWorkers(RepairSection(deadline_s=3.0)) as workers:
        yield Held(tmp_path / "results.db", Redacting(privacy, workers))


def left(redacted: bytes | None) -> bytes:
    return redacted or b"{}"


async def test_what_is_sent_waits_until_it_is_let_go(held: Held) -> None:
    assert await held.hold("a", BODY, left) == (LEFT, True)
    assert await held.sent("a", LEFT, is_held=True) == BODY
    await held.let_go("a", is_held=True)
    assert list(held.folder.iterdir()) == []
    with pytest.raises(NotFound):
        await held.sent("a", LEFT, is_held=True)


async def test_what_has_no_find_is_not_held(held: Held) -> None:
    body = b'{"messages": "hello"}'
    assert await held.hold("a", body, left) == (body, False)
    assert not held.folder.exists()
    assert await held.sent("a", body, is_held=False) == body


async def test_what_takes_too_long_to_look_through_is_held_whole(held: Held) -> None:
    body = b'{"messages": "%b!"}' % (b"a" * 64)
    assert await held.hold("a", body, left) == (b"{}", True)
    assert await held.sent("a", b"{}", is_held=True) == body


async def test_a_disk_that_fails_is_told_before_there_is_a_row(held: Held) -> None:
    held.folder.write_bytes(b"")  # no folder
    with pytest.raises(StoreError):
        await held.hold("a", BODY, left)


async def test_a_new_start_removes_what_nobody_asks_any_more(held: Held) -> None:
    for name in ("needed", "done"):
        await held.hold(name, BODY, left)
    (held.folder / ".unfinished").write_bytes(BODY)

    async def needed() -> set[str]:
        return {"needed"}

    await held.sweep(needed)  # these are its own: their rows may be on their way
    assert len(list(held.folder.iterdir())) == 3
    for path in held.folder.iterdir():
        os.utime(path, (1, 1))  # from before it started
    await held.sweep(needed)
    assert [path.name for path in held.folder.iterdir()] == ["needed"]


async def test_nothing_is_held_of_what_the_queue_refuses(held: Held, tmp_path: Path) -> None:
    connection, _ = new_database(tmp_path / "results.db")
    redacting = held._redacting

    async def change(function: Any, *args: Any) -> Any:
        return function(connection, *args)

    queue = Queue(
        runner=cast("Any", SimpleNamespace(wake=lambda: None)),
        store=cast("Any", None),
        reader=cast("Any", None),
        change=change,
        config=Config(queue=QueueSection(requests_max=10)),
        redacting=redacting,
        held=held,
    )
    one, other = Caller(tenant="one"), Caller(tenant="other")
    taken = {await queue.accept("/generate", BODY, caller) for caller in (*[one] * 8, other)}
    with pytest.raises(TenantOverShare):
        await queue.accept("/generate", BODY, one)
    taken.add(await queue.accept("/generate", BODY, other))
    with pytest.raises(QueueFull):
        await queue.accept("/generate", BODY, other)
    assert {path.name for path in held.folder.iterdir()} == taken
