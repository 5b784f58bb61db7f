"""However results came and went, the chain holds, the sum is exact, and a change is found."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import DEVICE, make_result, new_database

from edge_store.chain import verify_chain
from edge_store.receipt import State, read_receipt
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.result import Status
from edge_store.sqlite import Connection

SEQS_MAX = 30
OUTCOMES = (
    "completed", "incomplete", "failed", "cancelled", "deleted_forget", "deleted_retention", "lost",
    "in_flight", "interrupted", "not_stored",
)  # fmt: skip

commits = st.tuples(
    st.just("commit"), st.lists(st.sampled_from([*Status, "lost", None]), max_size=5)
)
deletions = st.tuples(
    st.just("delete"),
    st.lists(st.integers(1, SEQS_MAX), min_size=1, max_size=6),
    st.sampled_from(Reason),
    st.sampled_from(What),
)
boots = st.tuples(st.just("boot"), st.booleans())
histories = st.lists(commits | deletions | boots, min_size=1, max_size=12)


class Model:
    """A box and what it ought to know."""

    def __init__(self, path: Path) -> None:
        self.connection, self.boot = new_database(path)
        self.admitted = 0
        self.seq = 0
        self.total = 0
        self.there: dict[int, str] = {}  # seq -> id
        self.gone: dict[int, Reason] = {}
        self.ids: dict[int, str] = {}
        self.lost = self.unstored = 0

    def commit(self, outcomes: list[Any]) -> None:
        results = []
        for outcome in outcomes:
            self.admitted += 1
            self.total += 1
            if outcome is None:
                self.unstored += 1
            elif outcome == "lost":
                self.lost += 1
                self.connection.execute(
                    "INSERT INTO losses (at, boot_id, boot_seq, id, code, message) "
                    "VALUES (0, ?, ?, 'x', 'x', 'x')",
                    (self.boot.boot_id, self.admitted),
                )
            else:
                results.append(make_result(self.admitted, self.boot.boot_id, status=outcome))
                self.seq += 1
                self.there[self.seq] = self.ids[self.seq] = results[-1].id
        head = read_head(self.connection)
        write_batch(self.connection, self.boot, head, self.admitted, results)

    def delete(self, seqs: list[int], reason: Reason, what: What) -> None:
        count = delete_results(self.connection, seqs, reason, what)
        if what is What.RESULT:
            here = [seq for seq in set(seqs) if seq in self.there]
            assert count == len(here)
            for seq in here:
                del self.there[seq]
                self.gone[seq] = reason
            if reason is Reason.FORGET:
                self.gone |= {seq: reason for seq in seqs if seq in self.gone}

    def boot_again(self, ended: bool) -> None:  # noqa: FBT001  (drawn)
        if ended:
            end_boot(self.connection, self.boot)
        self.admitted = 0
        self.boot = begin_boot(
            self.connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
        )


def check(model: Model) -> None:
    found = verify_chain(model.connection)
    assert found.faults == ()
    assert found.results == len(model.there)
    reasons = list(model.gone.values())
    for view in ("completeness", "completeness_by_day"):
        sums = dict(
            zip(
                ("admitted", *OUTCOMES),
                model.connection.execute(
                    f"SELECT {', '.join(f'sum({name})' for name in ('admitted', *OUTCOMES))} "
                    f"FROM {view}"
                ).fetchone(),
                strict=True,
            )
        )
        assert sums["admitted"] == model.total == sum(sums[name] for name in OUTCOMES)
        assert sums["deleted_forget"] == reasons.count(Reason.FORGET)
        assert sums["deleted_retention"] == reasons.count(Reason.RETENTION)
        assert sums["lost"] == model.lost
        assert sums["in_flight"] + sums["interrupted"] + sums["not_stored"] == model.unstored
    for seq, result_id in itertools.islice(model.ids.items(), 8):
        receipt = read_receipt(model.connection, result_id, None)
        assert receipt.state is (State.COMMITTED if seq in model.there else State.DELETED)
        assert receipt.committed is not None
        assert receipt.committed.seq == seq


TAMPERING = (
    "UPDATE results SET latency_ms = latency_ms + 1 WHERE seq = ?",
    "UPDATE results SET digest = x'00' WHERE seq = ?",
    "UPDATE outputs SET output_text = 'other' WHERE seq = ?",
    "UPDATE requests SET response_body = x'ff' WHERE seq = ?",
    "UPDATE deletions SET digest = x'00' WHERE what = 'result' AND seq = ?",
    "DELETE FROM results WHERE seq = ?",
    "DELETE FROM outputs WHERE seq = ?",
    "DELETE FROM requests WHERE seq = ?",
    "DELETE FROM deletions WHERE what = 'result' AND seq = ?",
    "DELETE FROM commits WHERE ? BETWEEN seq_from AND seq_to",
    "INSERT INTO outputs (seq, choice_index, output_text, json_state) VALUES (?, 9, '', 'text')",
)


def tamper(connection: Connection, data: st.DataObject, seqs: list[int]) -> None:
    head = verify_chain(connection).newest_digest
    connection.execute("PRAGMA foreign_keys = OFF")
    statement = data.draw(st.sampled_from(TAMPERING))
    seq = data.draw(st.sampled_from(seqs))
    connection.execute("BEGIN")
    changed = connection.execute(statement, (seq,)).rowcount
    found = verify_chain(connection, head=head)
    connection.execute("ROLLBACK")
    assert bool(found.faults) == bool(changed), (statement, seq)


@settings(max_examples=40, deadline=None)
@given(history=histories, data=st.data())
def test_any_history_is_exact_and_any_change_of_it_is_found(
    history: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model(Path(folder) / "results.db")
        model.connection.execute("PRAGMA synchronous = OFF")
        steps: dict[str, Any] = {
            "commit": model.commit,
            "delete": model.delete,
            "boot": model.boot_again,
        }
        for name, *arguments in history:
            steps[name](*arguments)
        check(model)
        if model.ids:
            tamper(model.connection, data, sorted(model.ids))
        model.connection.close()
