"""Changes that are no results: one transaction each, in the writer's turn, on either way in."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.scripted import Recording, chat_body, recording, replay

from edge_store.api.admin import bind_admin
from edge_store.errors import StoreError, WriterStopped
from edge_store.recorder import transactions
from edge_store.recorder.transactions import InPieces
from edge_store.socketpath import reachable_socket
from edge_store.sqlite import Connection, driver

KEPT = "INSERT INTO annotations (at, id, kind, value) VALUES (1, 'x', 'pin', '{}')"


def keep(connection: Connection, fails: str = "") -> int:
    connection.execute(KEPT)
    if fails:
        connection.execute(fails)
    return 7


def kept(path: Path) -> int:
    connection = driver.connect(path)
    try:
        (count,) = connection.execute("SELECT count(*) FROM annotations").fetchone()
    finally:
        connection.close()
    return int(count)


async def test_a_change_is_committed_before_who_asked_knows(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, replay([chat_body("x")])) as running:
        assert await running.recorder.change(keep) == 7
        assert kept(path) == 1


async def test_a_change_that_fails_leaves_nothing_and_the_next_one_is_made(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, replay([chat_body("x")])) as running:
        with pytest.raises(StoreError, match="keep could not be committed: no such table"):
            await running.recorder.change(keep, "DELETE FROM nowhere")
        assert kept(path) == 0
        await running.recorder.change(keep)
        assert kept(path) == 1


async def test_changes_and_results_go_on_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, replay([chat_body("x")])) as running:
        asked = [running.ask() for _ in range(20)]
        changed = [running.recorder.change(keep) for _ in range(20)]
        await asyncio.gather(*asked, *changed)
        assert kept(path) == 20
        assert len(running.stored()) == 20


class Counting:
    """A connection that counts its COMMITs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.commits = 0

    def execute(self, statement: str, *args: Any) -> Any:
        self.commits += statement == "COMMIT"
        return self._connection.execute(statement, *args)

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("fails", ["", "DELETE FROM nowhere"])
async def test_changes_that_wait_share_a_commit_unless_one_of_them_fails(
    tmp_path: Path, fails: str
) -> None:
    path = tmp_path / "results.db"
    counted: list[Counting] = []

    def connected(connection: Connection) -> Counting:
        counted.append(Counting(connection))
        return counted[0]

    async with recording(path, replay([chat_body("x")]), connected=connected) as running:
        change = running.recorder.change
        changes = [change(keep, fails if number == 7 else "") for number in range(20)]
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        commits = counted[0].commits
    assert [outcome == 7 for outcome in outcomes] == [not fails or n != 7 for n in range(20)]
    assert kept(path) == (19 if fails else 20)
    assert commits == (19 if fails else 1)


class Kept(NamedTuple):
    number: int
    is_done: bool


def keep_in_pieces(connection: Connection, upto: int, before: Kept | None, _seconds: float) -> Kept:
    """One annotation a piece. 0 fails."""
    connection.execute(KEPT if upto else "DELETE FROM nowhere")
    number = before.number + 1 if before else 1
    return Kept(number, number >= upto)


PIECES = InPieces(keep_in_pieces)


@asynccontextmanager
async def counting(path: Path) -> AsyncIterator[tuple[Recording, Counting]]:
    counted: list[Counting] = []

    def connected(connection: Connection) -> Counting:
        counted.append(Counting(connection))
        return counted[0]

    async with recording(path, replay([chat_body("x")]), connected=connected) as running:
        yield running, counted[0]


async def test_pieces_wait_until_so_many_results_have_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "PIECE_EVERY", 3)
    monkeypatch.setattr(transactions, "PIECE_EVERY_S", 3600.0)
    path = tmp_path / "results.db"
    async with counting(path) as (running, _counted):
        await running.ask()
        changing = asyncio.ensure_future(running.recorder.change(PIECES, 4))
        asked = 0
        while not changing.done():
            await running.ask()
            asked += 1
            assert kept(path) <= 1 + asked // 3
        assert await changing == Kept(4, is_done=True)
    assert asked >= 9
    assert kept(path) == 4


async def test_pieces_for_which_few_results_come_go_after_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "PIECE_EVERY_S", 0.01)
    path = tmp_path / "results.db"
    async with counting(path) as (running, _counted):
        await running.ask()
        assert await running.recorder.change(PIECES, 3) == Kept(3, is_done=True)
    assert kept(path) == 3


async def test_a_piece_that_fails_costs_the_results_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with counting(path) as (running, _counted):
        await running.ask()
        changing = asyncio.ensure_future(running.recorder.change(PIECES, 0))
        assert (await running.ask()).status == 200
        with pytest.raises(StoreError, match="keep_in_pieces could not be committed: no such"):
            await changing
        assert len(running.stored()) == 2
        assert running.recorder.slots.closed is None
    assert kept(path) == 0


async def test_pieces_that_wait_when_the_writer_ends_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with counting(path) as (running, _counted):
        await running.ask()
        changing = asyncio.ensure_future(running.recorder.change(PIECES, 1000))
    with pytest.raises(WriterStopped):
        await changing
    assert kept(path) < 1000


async def test_after_the_writer_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    async with recording(path, replay([chat_body("x")])) as running:
        change = running.recorder.change
    with pytest.raises(WriterStopped):
        await change(keep)
    assert kept(path) == 0


@pytest.mark.parametrize("name", ["short", "long" * 40])
def test_the_admin_socket_is_the_groups_and_replaces_a_dead_one(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for _ in range(2):
        listener = bind_admin(folder / "results.db")
        listener.listen()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller,
            reachable_socket(folder / "results.db") as path,
        ):
            assert path.stat().st_mode & 0o777 == 0o660
            caller.connect(str(path))
        listener.close()
