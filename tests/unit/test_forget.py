"""What a box has forgotten goes in the older copies beside its newest one, too."""

from pathlib import Path

import msgspec
from support.records import make_result, new_database

from edge_store.chain import verify_chain
from edge_store.fleet.forget import forget_in_all
from edge_store.forget import ForgetResults, chosen_results, forget_results, pages_of
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.result import Result
from edge_store.sqlite import Connection, open_copy, open_reader


def box(path: Path, *results: Result) -> Connection:
    connection, boot = new_database(path)
    its_own = [msgspec.structs.replace(each, boot_id=boot.boot_id) for each in results]
    write_batch(connection, boot, read_head(connection), len(results), its_own)
    return connection


def results(number: int) -> list[Result]:
    return [make_result(n, "boot", user_id=f"u-{n}") for n in range(1, number + 1)]


def test_what_was_forgotten_goes_from_the_older_copies(tmp_path: Path) -> None:
    newest, older = tmp_path / "box-a.db", tmp_path / "box-a.2026-11-01T000000Z.db"
    damaged, others = tmp_path / "box-a.2026-10-01T000000Z.db", tmp_path / "box-b.db"
    all_ = results(3)
    box(older, *all_).close()
    box(others, *all_).close()
    damaged.write_bytes(b"damaged" * 1000)
    open_copy(older).close()
    connection = box(newest, *all_)
    delete_results(connection, [2], Reason.FORGET)
    delete_results(connection, [3], Reason.RETENTION)
    connection.close()
    assert forget_in_all(newest) == (1, (damaged,))
    reader = open_reader(older)
    assert [s for (s,) in reader.execute("SELECT seq FROM results ORDER BY seq")] == [1, 3]
    assert reader.execute("SELECT id, reason FROM deletions").fetchall() == [(all_[1].id, "forget")]
    assert verify_chain(reader).faults == ()
    assert b"answer 2" not in older.read_bytes()
    assert b"answer 1" in older.read_bytes()
    assert not list(tmp_path.glob(f"{older.name}-*"))  # it is one file that anyone can query
    assert b"answer 2" in others.read_bytes()
    assert damaged.read_bytes() == b"damaged" * 1000
    assert forget_in_all(newest) == (0, (damaged,))


def test_only_what_was_chosen_is_forgotten(tmp_path: Path) -> None:
    connection = box(tmp_path / "box.db", *results(300))
    reader = open_reader(tmp_path / "box.db")
    chosen = chosen_results(reader, None, "boot_seq > 10", 10.0)
    pages = list(pages_of(chosen))
    assert [len(page.seqs) for page in pages] == [256, 34]
    connection.execute("BEGIN IMMEDIATE")
    assert forget_results(connection, pages[0]) == 256
    assert forget_results(connection, pages[0]) == 0
    other = ForgetResults(seqs=(1,), ids=("another",))  # the number was handed out again
    assert forget_results(connection, other) == 0
    connection.execute("COMMIT")
    assert connection.execute("SELECT count(*) FROM results").fetchone() == (44,)
    assert chosen_results(reader, "u-5", None, 10.0) == [
        reader.execute("SELECT seq, id FROM results WHERE user_id = 'u-5'").fetchone()
    ]
