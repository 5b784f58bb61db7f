"""Several centres that export to one lake, with copies of one box that differ: every row that any
of them ever had is there once, but for what was forgotten.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.lakes import exported, in_copies, in_lake
from support.replicating import Database

from edge_store.fleet.lake import append, tables
from edge_store.fleet.lake.ask import ask_lake
from edge_store.fleet.lake.forget import Forgetter
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake, reached
from edge_store.fleet.lake.tables import TABLES, Point
from edge_store.fleet.lake.tombstones import Tombstones, flag_of
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_writer

COMMIT = Forgetter._commit


class Centres:
    """One box, and centres by name with a copy of it each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = Lake(str(folder / "lake"))
        self._stack = ExitStack()
        self.box = self._open(folder / "box-a.db")
        self.box.write(10)
        self.copies: list[Path] = []

    def _open(self, path: Path) -> Database:
        return self._stack.enter_context(closing(Database(path, "box-a")))

    def pull(self, centre: str, box: Database | None = None) -> Path:
        """The box as it is."""
        copy = self.folder / centre / "box-a.db"
        copy.parent.mkdir(exist_ok=True)
        copy.unlink(missing_ok=True)
        (box or self.box).connection.execute("VACUUM INTO ?", (str(copy),))
        seen = self.folder / f"seen-{len(self.copies)}.db"
        self.copies.append(Path(shutil.copy(copy, seen)))
        return copy

    def export(self, *centres: str) -> None:
        for centre in centres:
            _, reports = exported(self.folder / centre, self.lake)
            assert not [each for each in reports if each.error or each.conflicts]

    def keep(self, name: str) -> Path:
        """The box's state."""
        kept = self.folder / f"{name}.db"
        self.box.connection.execute("VACUUM INTO ?", (str(kept),))
        return kept

    def go_on(self, state: Path, *, restored: bool) -> Database:
        """Another box from that state: restored, or set back in secret."""
        if restored:
            with closing(open_writer(state)) as connection:
                create_identity(connection, "box-a", reason="restored")
        return self._open(state)

    def check(self) -> None:
        for table in TABLES:
            found = in_lake(self.lake, table)
            assert max(Counter(found).values()) == 1, f"{table} has rows twice"
            assert found == in_copies(*self.copies, table=table)

    def ids(self) -> set[str]:
        return set(self.lake.open("results").to_pyarrow_dataset().to_table()["id"].to_pylist())

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Centres]:
    made = Centres(tmp_path)
    yield made
    made.close()


def id_of(box: Database, seq: int) -> str:
    ((found,),) = box.connection.execute("SELECT id FROM results WHERE seq = ?", (seq,))
    return str(found)


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("first", ["ab", "ba"])
def test_copies_before_and_after_a_restore_append_nothing_twice(
    world: Centres, first: str, *, restored: bool
) -> None:
    """Centre a has what the box wrote, centre b what it went on with from an earlier state."""
    world.pull("a")
    world.export("a")
    world.box.write(5)
    earlier = world.keep("earlier")
    world.box.write(3)
    world.pull("a")
    again = world.go_on(earlier, restored=restored)
    again.write(10)
    world.pull("b", again)
    world.export(*first, *first)
    world.check()
    again.write(2)
    world.box.write(2)
    world.pull("a", again)
    world.pull("b")
    world.export(*first, *first)
    world.check()


def test_rows_that_retention_deleted_before_another_centre_pulled_are_not_lost(
    world: Centres,
) -> None:
    world.pull("a")
    delete_results(world.box.connection, [1, 2, 5], Reason.RETENTION)
    world.pull("b")
    world.export("b", "a")
    world.check()
    assert len(world.ids()) == 10
    world.box.write(2)
    world.pull("b")
    world.export("a", "b", "a")
    world.check()
    version = world.lake.open("results").version()
    world.export("a", "b")
    assert world.lake.open("results").version() == version, "what is settled costs no commit"


def test_a_copy_with_rows_that_only_it_has_is_not_held_by_the_lake(world: Centres) -> None:
    older = world.pull("a")
    delete_results(world.box.connection, [1, 2], Reason.RETENTION)
    newer = world.pull("b")
    world.export("b")
    held = Held(str(world.lake))
    assert (held.has_all(older), held.taken(older).result) == (False, 0)
    assert (held.has_all(newer), held.taken(newer).result) == (True, 10)


def test_what_another_centre_has_carried_out_does_not_come_back(world: Centres) -> None:
    """Centre a has pulled before the box forgot, and has rows that the lake lacks."""
    world.box.write(2)
    older = world.pull("a")
    gone = {id_of(world.box, seq) for seq in (3, 12)}
    delete_results(world.box.connection, [3, 12], Reason.FORGET)
    delete_results(world.box.connection, [1], Reason.RETENTION)
    world.pull("b")
    world.export("b", "a")
    everything = {id_of_row for (id_of_row,) in _rows(older)}
    assert world.ids() == everything - gone
    answer = ask_lake(world.lake, [older], "SELECT id FROM results", rows_max=100, timeout_s=60)
    assert answer is not None
    assert sorted(answer.result.rows) == sorted((each,) for each in everything - gone)
    world.pull("a")
    world.export("a", "b")
    assert world.ids() == everything - gone


def _rows(copy: Path) -> list[tuple[str]]:
    with closing(Database(Path(shutil.copy(copy, copy.with_suffix(".read"))), "box-a")) as box:
        return box.connection.execute("SELECT id FROM results").fetchall()


def test_more_forks_than_there_are_places_double_nothing(
    world: Centres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("edge_store.fleet.lake.store", "edge_store.fleet.lake.append", tables.__name__):
        monkeypatch.setattr(f"{name}.SLOTS_MAX", 2)
    states = [world.keep(f"fork-{number}") for number in range(4)]
    forks = [world.go_on(state, restored=False) for state in states]
    for _ in range(2):
        for centre, fork in zip("abcd", forks, strict=True):
            fork.write(3)
            world.pull(centre, fork)
        world.export(*"abcd")
        world.check()


def test_points_of_an_older_lake_hold_nothing_until_all_is_compared(
    world: Centres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not say what retention had deleted in the copy that was exported."""
    older = world.pull("a")
    delete_results(world.box.connection, [1, 2], Reason.RETENTION)
    newer = world.pull("b")
    with monkeypatch.context() as older_version:
        older_version.setattr(append, "reached", _reached_as_of_old)
        world.export("b")
    for _ in range(2):
        held = Held(str(world.lake))
        assert (held.has_all(older), held.taken(older).result) == (False, 0)
        world.export("b")  # rowless: its own points, which say it
    assert (held.has_all(newer), held.taken(newer).result) == (True, 10)
    world.export("a")
    world.check()
    held = Held(str(world.lake))
    assert (held.has_all(older), held.taken(older).result) == (True, 10)
    version = world.lake.open("results").version()
    world.export("a", "b")
    assert world.lake.open("results").version() == version, "all is compared once"
    world.box.write(2)
    world.pull("b")
    world.export("b", "a")
    world.check()


def _reached_as_of_old(points: Mapping[tuple[str, str, int], Point]) -> dict[str, int]:
    return {name: at for name, at in reached(points).items() if not name.startswith("retired")}


@pytest.mark.parametrize("is_killed", [True, False])
def test_what_an_older_version_has_carried_out_of_several_copies_does_not_come_back(
    world: Centres, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """It noted in no table of the lake what was forgotten. An export of this version is killed, or
    goes on, when it has noted the tombstones of the first of two copies of the box.
    """
    again = world.go_on(world.keep("earlier"), restored=True)
    again.write(5)
    world.pull("b", again)  # before anything was forgotten
    gone = {id_of(world.box, 1), id_of(again, 12), id_of(again, 13)}
    delete_results(world.box.connection, [1], Reason.FORGET)
    delete_results(again.connection, [12, 13], Reason.FORGET)
    world.pull("a").rename(world.folder / "a" / "box-a.2026-01-01T000000Z.db")
    world.pull("a", again)
    with monkeypatch.context() as older_version:
        older_version.setattr(Tombstones, "add", lambda *_args: None)
        older_version.setattr(Forgetter, "_commit", _commit_as_of_old)
        world.export("a")
    if is_killed:
        with monkeypatch.context() as killed:
            killed.setattr(Forgetter, "_delete", _killed)
            with pytest.raises(KeyboardInterrupt):
                world.export("a")
    for _ in range(2):
        world.export("a")
        assert Tombstones(world.lake).of("box-a") == gone
    world.export("b")
    assert not world.ids() & gone
    again.write(1)
    world.pull("b", again)
    world.export("b", "a")
    assert not world.ids() & gone


def _commit_as_of_old(self: Forgetter, transactions: dict[str, int]) -> None:
    new = (flag_of("box-a"), "noted/")
    old = {name: at for name, at in transactions.items() if not name.startswith(new)}
    COMMIT(self, old)


def _killed(*_args: object) -> int:
    raise KeyboardInterrupt
