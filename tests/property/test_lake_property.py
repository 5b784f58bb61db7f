"""Whatever becomes of a box, and whenever it is pulled and exported: the lake is the union of what
was pulled, each row once, but for what was forgotten.
"""

import shutil
import tempfile
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.lakes import exported, in_lake
from support.replicating import Database

from edge_store.errors import ReplicaBehind
from edge_store.fleet.forget import forget_in_all, older_copies
from edge_store.fleet.history import settle
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_reader, open_writer

TABLES = ("results", "outputs")
Act = tuple[str, int]


class World:
    """One box, its copies at the centre, and the lake."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = (folder / f"box-{number}.db" for number in count())
        self._states: list[Path] = []
        self._fleet = folder / "fleet"
        self._fleet.mkdir()
        self.lake = Lake(str(folder / "lake"))
        self.seen: dict[str, bytes] = {}
        self.forgotten: set[str] = set()
        self._box = Database(next(self._names), "box-a")

    def act(self, what: str, number: int) -> None:
        getattr(self, what)(number)

    def write(self, number: int) -> None:
        self._box.write(number + 1)
        self._states.append(self._snapshot())

    def delete(self, number: int, reason: Reason = Reason.RETENTION) -> None:
        seqs = [seq for (seq,) in self._box.connection.execute("SELECT seq FROM results")]
        delete_results(self._box.connection, seqs[number :: number + 2], reason)

    def forget(self, number: int) -> None:
        self.delete(number, Reason.FORGET)

    def restore(self, number: int) -> None:
        self._go_on_from(number, "restored")

    def set_back(self, number: int) -> None:
        """In secret, as a machine's snapshot does."""
        self._go_on_from(number, "created")

    def set_up(self, number: int) -> None:
        self._box.close()
        self._box = Database(next(self._names), "box-a")
        self.write(number)

    def pull(self, _number: int) -> None:
        """As ``fleet pull`` does with a restored copy."""
        copy, new = self._fleet / "box-a.db", self._snapshot()
        with suppress(ReplicaBehind):  # it only lacks commits
            settle(copy, new, older_copies(copy), Held(str(self.lake)).taken)
            new.rename(copy)
            forget_in_all(copy, older_copies(copy))
        self._see()

    def export(self, _number: int) -> None:
        if list(self._fleet.iterdir()):
            exported(self._fleet, self.lake, tables=TABLES)

    def _see(self) -> None:
        for copy in self._fleet.iterdir():
            with closing(open_reader(copy)) as reader:
                self.seen |= dict(reader.execute("SELECT id, digest FROM results"))
                gone = reader.execute("SELECT id FROM deletions WHERE reason = 'forget'")
                self.forgotten |= {name for (name,) in gone}

    def close(self) -> None:
        self._box.close()

    def _snapshot(self) -> Path:
        path = next(self._names)
        self._box.connection.execute("VACUUM INTO ?", (str(path),))
        return path

    def _go_on_from(self, number: int, reason: str) -> None:
        if not self._states:
            return
        self._box.close()
        path = Path(shutil.copy(self._states[number % len(self._states)], next(self._names)))
        with closing(open_writer(path)) as connection:
            create_identity(connection, "box-a", reason=reason)
        self._box = Database(path, "box-a")


ACTS = ("write", "write", "delete", "forget", "restore", "set_back", "set_up", "pull", "export")


@example([("write", 0), ("forget", 0), ("pull", 0), ("restore", 0)])  # to before it forgot
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5)), min_size=4, max_size=12))
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_lake_is_the_union_of_what_was_pulled_but_for_what_was_forgotten(acts: list[Act]) -> None:
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        try:
            for what, number in [*acts, ("pull", 0), ("export", 0), ("export", 0)]:
                world.act(what, number)
            for table in TABLES:
                rows = world.lake.open(table).to_pyarrow_dataset().to_table().to_pylist()
                found = [row["id"] for row in rows]
                assert len(found) == len(set(found))
                assert set(found) == set(world.seen) - world.forgotten
            assert len(in_lake(world.lake, "results")) == len(found)
        finally:
            world.close()
