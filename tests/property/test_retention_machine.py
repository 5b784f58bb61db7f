"""Retention, pins, holds, forgets and cuts in any order: nothing is lost, all is counted, the chain
holds, and what was forgotten never comes back.
"""

import random
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.retaining import DAY_MS, Box, stored_rows

from edge_store.archive.forgetting import ForgetArchived
from edge_store.archive.ledger import read_archives
from edge_store.archive.loading import restore
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import read_file
from edge_store.chain import verify_chain
from edge_store.clock import now_ms
from edge_store.errors import NotFound
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.recorder.holds import AddHold, EndHold
from edge_store.result import Record
from edge_store.selection import Selection
from edge_store.sqlite import open_reader

DAYS = 10
CUTS_MAX = 12
PLACES = st.integers(0, 30)


class Cut(BaseException):
    """The process is killed here."""


class Retaining(RuleBasedStateMachine):
    @initialize(archived=st.booleans())
    def begin(self, *, archived: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.box = Box(Path(self.folder.name), [])
        self.settings: dict[str, Any] = {}
        if archived:
            self.settings["archive"] = str(self.box.archive)
        self.before: dict[int, list[Any]] = {}
        self.ids: dict[int, str] = {}
        self.age = float(DAYS)
        self.forgotten: set[int] = set()
        self.pinned: set[int] = set()
        self.held_until = 0  # UTC ms

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.close()
            self.folder.cleanup()

    @rule(count=st.integers(1, 4))
    def record(self, count: int) -> None:
        self.age = max(0.0, self.age - 1)
        first = self.box.admitted
        self.box.add([self.age] * count)
        rows = stored_rows(self.box.connection)
        for seq in range(first + 1, first + count + 1):
            self.before[seq] = rows[seq]
            self.ids[seq] = self.box.id_of(seq)

    @rule(place=PLACES, is_pinned=st.booleans())
    def pin(self, place: int, *, is_pinned: bool) -> None:
        live = self.box.seqs()
        if live:
            seq = live[place % len(live)]
            self.box.pin(seq, "true" if is_pinned else "false")
            (self.pinned.add if is_pinned else self.pinned.discard)(seq)

    @rule(days=st.integers(0, DAYS))
    def hold(self, days: int) -> None:
        if not self.held_until:
            self.held_until = now_ms() - days * DAY_MS
            selection = Selection(until=self.held_until)
            self.box.make("retention.hold", AddHold(name="h", selection=selection))

    @rule()
    def unhold(self) -> None:
        if self.held_until:
            self.box.make("retention.unhold", EndHold(name="h"))
            self.held_until = 0

    @rule(days=st.integers(0, DAYS), what=st.sampled_from(("keep_days", "content_days")))
    def retain(self, days: int, what: str) -> None:
        self._retain(self.box.make, days, what)

    @rule(days=st.integers(0, DAYS), cut=st.integers(1, CUTS_MAX))
    def retain_and_be_cut(self, days: int, cut: int) -> None:
        left = iter(range(cut))

        def make(name: str, params: Record) -> Any:
            if next(left, None) is None:
                raise Cut
            return self.box.make(name, params)

        with suppress(Cut):
            self._retain(make, days, random.choice(("keep_days", "content_days")))

    def _retain(self, make: Callable[[str, Record], Any], days: int, what: str) -> None:
        held = self.box.connection.execute(
            "SELECT seq FROM results WHERE created_at < ?", (self.held_until,)
        )
        stay = {seq for (seq,) in held} | (self.pinned & set(self.box.seqs()))
        chosen: dict[str, Any] = {what: days + 0.01, **self.settings}
        self.box.run(make=make, **chosen)
        assert stay <= set(self.box.seqs())

    @rule(place=PLACES)
    def forget(self, place: int) -> None:
        if not self.before:
            return
        seq = sorted(self.before)[place % len(self.before)]
        if seq in self.box.seqs():
            delete_results(self.box.connection, [seq], Reason.FORGET, What.RESULT)
        elif not self.box.make("archive.forget", ForgetArchived(seqs=(seq,))):
            return
        self.forgotten.add(seq)

    @invariant()
    def everything_is_counted(self) -> None:
        if not hasattr(self, "box"):
            return
        account = self.box.account()
        assert account["in_flight"] == 0
        assert account["deleted_forget"] == len(self.forgotten)
        gone = account["deleted_forget"] + account["deleted_retention"]
        assert account["completed"] + gone == self.box.admitted
        if self.settings:
            assert account["archived"] == account["deleted_retention"]
        assert verify_chain(self.box.connection).faults == ()

    @rule()
    def look_into_the_archive(self) -> None:
        """All that is not live is there as it was; of what was forgotten nothing."""
        if not self.settings:
            return
        self.box.run(**self.settings)
        store = ArchiveStore(str(self.box.archive))
        files = [each for each in read_archives(self.box.connection) if each.rows]
        assert {row["seq"] for each in files for row in read_file(store, each)}.isdisjoint(
            self.forgotten
        )
        there = [] if store.is_missing else store.names("box-test")
        assert there == sorted(each.file for each in files)
        target = Path(self.folder.name, "restored.db")
        try:
            restore(self.box.path, str(self.box.archive), target, (None, None))
        except NotFound:
            restored: dict[int, list[Any]] = {}
        else:
            with closing(open_reader(target)) as reader:
                restored = stored_rows(reader)
            target.unlink()
        live = stored_rows(self.box.connection)
        for seq in self.before.keys() - self.forgotten:
            here = [*live.get(seq, []), *restored.get(seq, [])]
            assert all(row in here for row in self.before[seq]), seq


TestRetaining = Retaining.TestCase
TestRetaining.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
