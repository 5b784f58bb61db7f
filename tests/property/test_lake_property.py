"""Whatever becomes of a box, and whenever two centres pull and export it, one after the other or at
once: the lake is the union of what was pulled, each row once, but for what was forgotten.
"""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.lakes import exported, in_lake
from support.replicating import Database

from edge_store.errors import LakeOvertaken, ReplicaBehind
from edge_store.fleet.forget import forget_in_all, older_copies
from edge_store.fleet.history import settle
from edge_store.fleet.lake import append, care, tables
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_reader, open_writer

TABLES = ("results", "outputs")
Act = tuple[str, int]


CENTRES = 2


class World:
    """One box, its copies at each of the centres, and their lake. An act's number modulo
    ``CENTRES`` says which of them it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = (folder / f"box-{number}.db" for number in count())
        self._states: list[Path] = []
        self._fleets = [folder / f"fleet-{number}" for number in range(CENTRES)]
        for fleet in self._fleets:
            fleet.mkdir()
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

    def pull(self, number: int) -> None:
        """As ``fleet pull`` does with a restored copy."""
        fleet = self._fleets[number % CENTRES]
        copy, new = fleet / "box-a.db", self._snapshot()
        with suppress(ReplicaBehind):  # it only lacks commits
            settle(copy, new, older_copies(copy), Held(str(self.lake)).taken)
            new.rename(copy)
            forget_in_all(copy, older_copies(copy))
        self._see(fleet)

    def evict(self, number: int) -> None:
        """As ``fleet pull --disk-max`` does: of the older copies what the lake has all of."""
        held = Held(str(self.lake))
        for copy in older_copies(self._fleets[number % CENTRES] / "box-a.db"):
            if held.has_all(copy):
                copy.unlink()

    def export(self, number: int) -> None:
        fleet = self._fleets[number % CENTRES]
        if list(fleet.iterdir()):
            exported(fleet, self.lake, tables=TABLES)

    def export_at_once(self, _number: int) -> None:
        """Whom the other has overtaken too often gives up."""

        def one(number: int) -> None:
            with suppress(LakeOvertaken):
                self.export(number)

        with ThreadPoolExecutor(CENTRES) as threads:
            for _ in threads.map(one, range(CENTRES)):
                pass

    def compact(self, _number: int) -> None:
        for table in TABLES:
            if self.lake.find(table) is not None:
                care.compact(self.lake, table, 2**20)

    def _see(self, fleet: Path) -> None:
        for copy in fleet.iterdir():
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


ACTS = (
    "write", "write", "delete", "forget", "restore", "set_back", "set_up", "pull", "pull", "pull",
    "export", "export", "export_at_once", "evict", "compact",
)  # fmt: skip
AT_LAST = [(what, number) for what in ("pull", "export", "export") for number in range(CENTRES)]


@contextmanager
def small_steps(*, is_so: bool) -> Iterator[None]:
    """Rows are read few at a time, and each time committed."""
    steps = patch.object(tables, "RESULTS_AT_FIRST", 2 if is_so else tables.RESULTS_AT_FIRST)
    with steps, patch.object(append, "GROUP_BYTES", 1 if is_so else append.GROUP_BYTES):
        yield


@example(acts=[("write", 0), ("forget", 0), ("pull", 0), ("restore", 0)], small=False)  # to before
@example(  # a copy from after a restore, then one from before it
    acts=[
        ("write", 4), ("pull", 0), ("export", 0), ("write", 4), ("pull", 0), ("restore", 1),
        ("write", 0), ("pull", 1), ("export", 1), ("export", 0),
    ],
    small=False,
)  # fmt: skip
@example(  # a copy from after the retention, then one from before it
    acts=[("write", 5), ("pull", 0), ("delete", 0), ("pull", 1), ("export", 1), ("export", 0)],
    small=False,
)
@given(
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5)), min_size=4, max_size=16),
    small=st.booleans(),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_lake_is_the_union_of_what_was_pulled_but_for_what_was_forgotten(
    acts: list[Act], *, small: bool
) -> None:
    with tempfile.TemporaryDirectory() as name, small_steps(is_so=small):
        world = World(Path(name))
        try:
            for what, number in [*acts, *AT_LAST]:
                world.act(what, number)
            for table in TABLES:
                rows = world.lake.open(table).to_pyarrow_dataset().to_table().to_pylist()
                found = [row["id"] for row in rows]
                assert len(found) == len(set(found))
                assert set(found) == set(world.seen) - world.forgotten
            assert len(in_lake(world.lake, "results")) == len(found)
        finally:
            world.close()
