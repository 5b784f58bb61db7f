"""What is chosen to be forgotten, what goes with it, and what goes in older copies."""

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.records import make_result, new_database
from support.soak.faults import undo_newest_migration

from edge_store.api.routes import GENERATING
from edge_store.chain import verify_chain
from edge_store.errors import InvalidRequest, StoreError
from edge_store.fleet import forget as forget_module
from edge_store.fleet.forget import (
    all_older_copies,
    forget_in_all,
    forget_in_index,
    older_copies,
)
from edge_store.fleet.lake.export import find_all_copies
from edge_store.forget.carry import ForgetKept, ForgetResults, forget_kept, forget_results
from edge_store.forget.choice import Choice, Who, choose, names_of
from edge_store.forget.lines import Overwrite, Span, overwrite
from edge_store.queue.input import Limits, lines_of, reread
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.recorder.transactions import in_transaction
from edge_store.result import Result
from edge_store.schema import SCHEMA_VERSION
from edge_store.search import index as index_module
from edge_store.search.cleaning import empty
from edge_store.search.file import index_of_copy, open_index
from edge_store.search.index import catch_up, step
from edge_store.sqlite import Connection, driver, open_copy, open_reader


def box(path: Path, *results: Result) -> Connection:
    connection, boot = new_database(path)
    its_own = [msgspec.structs.replace(each, boot_id=boot.boot_id) for each in results]
    write_batch(connection, boot, read_head(connection), len(results), its_own)
    return connection


def results(number: int, **changes: Any) -> list[Result]:
    return [make_result(n, "boot", user_id=f"u-{n}", **changes) for n in range(1, number + 1)]


def chosen(connection: Connection, user: str | None = None, where: str | None = None) -> Choice:
    names = None if user is None else names_of(user, GENERATING)
    return choose(connection, Who(user, where, 10.0), names)


def test_what_was_forgotten_goes_from_the_older_copies(tmp_path: Path) -> None:
    newest, older = tmp_path / "box-a.db", tmp_path / "box-a.2026-11-01T000000Z.db"
    damaged, others = tmp_path / "box-a.2026-10-01T000000Z.db", tmp_path / "box-b.db"
    all_ = results(3)
    for path in (older, others):
        with_queue = box(path, *all_)
        with_queue.execute(
            "INSERT INTO queued_requests (id, created_at, caller, endpoint, body, is_held) "
            "VALUES ('q-1', 0, '{}', '/v1/chat/completions', ?, 0)",
            (b"a queued secret",),
        )
        with_queue.close()
    damaged.write_bytes(b"damaged" * 1000)
    open_copy(older).close()
    connection = box(newest, *all_)
    delete_results(connection, [2], Reason.FORGET)
    delete_results(connection, [3], Reason.RETENTION)
    connection.execute("INSERT INTO forgotten (at, what, id) VALUES (0, 'request', 'q-1')")
    connection.close()
    assert forget_in_all(newest, older_copies(newest)) == (1, (damaged,))
    reader = open_reader(older)
    assert [s for (s,) in reader.execute("SELECT seq FROM results ORDER BY seq")] == [1, 3]
    assert reader.execute("SELECT id, reason FROM deletions").fetchall() == [(all_[1].id, "forget")]
    assert verify_chain(reader).faults == ()
    for secret in (b"answer 2", b"a queued secret"):
        assert secret not in older.read_bytes()
    assert b"answer 1" in older.read_bytes()
    assert not list(tmp_path.glob(f"{older.name}-*"))  # it is one file that anyone can query
    assert b"answer 2" in others.read_bytes()
    assert damaged.read_bytes() == b"damaged" * 1000
    assert forget_in_all(newest, older_copies(newest)) == (0, (damaged,))


def test_the_search_index_beside_a_copy_is_no_copy_and_forgets_with_it(tmp_path: Path) -> None:
    newest, older = tmp_path / "box-a.db", tmp_path / "box-a.2026-11-01T000000Z.db"
    all_ = results(3)
    connection = box(newest, *all_)
    box(older, *all_).close()
    for path in (newest, older):
        with closing(open_reader(path)) as reader:
            catch_up(index_of_copy(path), reader, lambda *_: None).close()
    open_copy(older).close()
    assert older_copies(newest) == [older]
    assert all_older_copies(tmp_path) == {"box-a": [older]}
    assert find_all_copies(tmp_path) == (older, newest)
    delete_results(connection, [1], Reason.RETENTION)
    forget_in_index(newest)
    assert index_of_copy(newest).exists(), "a copy that has forgotten nothing keeps it"
    delete_results(connection, [2], Reason.FORGET)
    connection.close()
    forget_in_index(newest)
    assert not index_of_copy(newest).exists()
    assert forget_in_all(newest, [older]) == (1, ())
    assert not index_of_copy(older).exists()
    forget_in_index(newest)
    with closing(open_reader(newest)) as reader:
        catch_up(index_of_copy(newest), reader, lambda *_: None).close()
    forget_in_index(newest)
    assert index_of_copy(newest).exists(), "it was made since"


def test_index_goes_before_the_older_copy_has_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, older = tmp_path / "box-a.db", tmp_path / "box-a.2026-11-01T000000Z.db"
    all_ = results(3)
    box(older, *all_).close()
    open_copy(older).close()
    with closing(open_reader(older)) as reader:
        catch_up(index_of_copy(older), reader, lambda *_: None).close()
    connection = box(newest, *all_)
    delete_results(connection, [2], Reason.FORGET)
    connection.close()

    def fails(_path: Path) -> None:
        raise StoreError("it cannot be deleted")

    with monkeypatch.context() as patched:
        patched.setattr(forget_module, "drop_index", fails)
        assert forget_in_all(newest, [older]) == (0, (older,))
    assert index_of_copy(older).exists()
    assert forget_in_all(newest, [older]) == (1, ())
    assert not index_of_copy(older).exists()


@pytest.mark.parametrize("is_marked", [True, False], ids=["", "by an earlier release"])
@pytest.mark.parametrize("reason", Reason)
def test_index_that_was_brought_up_to_date_in_part_goes(
    tmp_path: Path,
    reason: Reason,
    is_marked: bool,  # noqa: FBT001
) -> None:
    newest = tmp_path / "box-a.db"
    connection = box(newest, *results(3))
    index = index_of_copy(newest)
    with closing(open_reader(newest)) as reader:
        catch_up(index, reader, lambda *_: None).close()
        delete_results(connection, [2], reason)
        with closing(open_index(index, reader)) as cut:
            while step(cut, reader, 3).is_more:
                pass
            if not is_marked:
                cut.execute("UPDATE shards SET is_unclean = 0")
    connection.close()
    forget_in_index(newest)
    assert not index.exists()


def test_index_whose_wal_may_hold_more_than_it_goes(tmp_path: Path) -> None:
    newest = tmp_path / "box-a.db"
    box(newest, *results(3)).close()
    index = index_of_copy(newest)
    with closing(open_reader(newest)) as reader:
        catch_up(index, reader, lambda *_: None).close()
        forget_in_index(newest)
        assert index.exists()
        with closing(driver.connect(index, isolation_level=None)) as other:
            other.execute("UPDATE state SET only = only")
            other.execute("BEGIN")
            other.execute("SELECT * FROM state").fetchall()
            forget_in_index(newest)
    assert not index.exists()


def test_catching_up_waits_for_who_reads_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = tmp_path / "box-a.db"
    connection = box(newest, *results(3))
    index = index_of_copy(newest)
    with (
        closing(open_reader(newest)) as reader,
        closing(catch_up(index, reader, lambda *_: None)) as first,
    ):
        first.execute("UPDATE state SET only = only")
        first.execute("BEGIN")
        first.execute("SELECT * FROM state").fetchall()
        delete_results(connection, [2], Reason.FORGET)

        def emptied(connection: Connection) -> bool:
            if is_empty := empty(connection):
                return is_empty
            first.execute("ROLLBACK")  # he has what he wanted
            return is_empty

        monkeypatch.setattr(index_module, "empty", emptied)
        with closing(catch_up(index, reader, lambda *_: None)):
            assert index.with_name(f"{index.name}-wal").stat().st_size == 0
    connection.close()


def test_older_copy_of_an_older_schema_is_migrated_to_forget(tmp_path: Path) -> None:
    newest, older = tmp_path / "box-a.db", tmp_path / "box-a.2026-11-01T000000Z.db"
    all_ = results(3)
    connection = box(older, *all_)
    assert undo_newest_migration(connection)
    connection.close()
    connection = box(newest, *all_)
    assert forget_in_all(newest, older_copies(newest)) == (0, ())
    assert schema_of(older) == SCHEMA_VERSION - 1, "nothing is to be forgotten in it"
    delete_results(connection, [2], Reason.FORGET)
    connection.close()
    assert forget_in_all(newest, older_copies(newest)) == (1, ())
    assert schema_of(older) == SCHEMA_VERSION
    assert b"answer 2" not in older.read_bytes()


def schema_of(path: Path) -> Any:
    reader = open_reader(path)
    (version,) = reader.execute("PRAGMA user_version").fetchone()
    reader.close()
    return version


def test_only_what_was_chosen_is_forgotten(tmp_path: Path) -> None:
    connection = box(tmp_path / "box.db", *results(300))
    choice = chosen(connection, where="boot_seq > 10")
    assert list(choice.results) == list(range(11, 301))
    named = "results.boot_seq > 10 AND requests.response_body IS NOT NULL AND EXISTS (SELECT 1)"
    assert chosen(connection, where=named).results == choice.results
    page = list(choice.results.items())[:256]
    params = ForgetResults(seqs=tuple(s for s, _ in page), ids=tuple(i for _, i in page))
    assert in_transaction(connection, forget_results, params) == 256
    assert in_transaction(connection, forget_results, params) == 0
    other = ForgetResults(seqs=(1,), ids=("another",))  # the number was handed out again
    assert in_transaction(connection, forget_results, other) == 0
    assert connection.execute("SELECT count(*) FROM results").fetchone() == (44,)
    assert list(chosen(connection, user="u-5").results) == [5]


def test_what_was_asked_with_a_forgotten_answer_goes_too(tmp_path: Path) -> None:
    first, second, third, apart = results(4)
    turns = [
        first,
        make_result(2, id=second.id, previous_id=first.id),
        make_result(3, id=third.id, previous_id=second.id),
        apart,
        *(make_result(n, conversation_id="conv_1") for n in (5, 6)),
        make_result(7, conversation_id="conv_1", user_id="u-7"),
        make_result(8, conversation_id="conv_1"),
        make_result(9, conversation_id="conv_2"),
    ]
    connection = box(tmp_path / "box.db", *turns)
    for name, previous, request in (
        ("r-1", third.id, b'{"input": "go on"}'),
        ("r-2", None, b'{"input": "x", "user": "u-4"}'),
    ):
        connection.execute(
            "INSERT INTO responses "
            "(id, created_at, caller, background, previous_id, request, is_held) "
            "VALUES (?, 0, '{}', 1, ?, ?, 0)",
            (name, previous, request),
        )
    found = chosen(connection, user="u-1")
    assert (list(found.results), found.following) == ([1, 2, 3], 2)
    assert (found.responses, found.conversations) == (["r-1"], [])
    found = chosen(connection, user="u-7")
    assert (list(found.results), found.following) == ([7, 8], 1)
    assert found.conversations == ["conv_1"]
    assert chosen(connection, user="u-4").responses == ["r-2"]
    both = chosen(connection, where="boot_seq IN (6, 8)")
    assert list(both.results) == [6, 7, 8]


def test_the_other_attempts_of_a_line_hold_its_text(tmp_path: Path) -> None:
    line = {"batch_id": "batch_1", "custom_id": "a"}
    failed = make_result(1, status="failed", **line)
    other = make_result(3, batch_id="batch_1", custom_id="b")
    connection = box(tmp_path / "box.db", failed, make_result(2, **line), other)
    found = chosen(connection, where="status = 'completed' AND custom_id = 'a'")
    assert (list(found.results), found.lines) == ([1, 2], [("batch_1", "a")])


def test_the_newest_pin_of_a_result_counts(tmp_path: Path) -> None:
    pinned, freed, _other = made = results(3)
    connection = box(tmp_path / "box.db", *made)
    for name, value in ((pinned.id, "true"), (freed.id, "true"), (freed.id, "false")):
        connection.execute(
            "INSERT INTO annotations (at, id, kind, value) VALUES (0, ?, 'pin', ?)", (name, value)
        )
    assert chosen(connection, where="1").pinned == [pinned.id]


@pytest.mark.parametrize(
    "where", ["1; DELETE FROM results", "1 -- all", "1 /* all", "1) OR (1", "seq = 1) OR (seq"]
)
def test_more_than_an_expression_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(InvalidRequest):
        chosen(box(tmp_path / "box.db"), where=where)


@pytest.mark.parametrize(
    ("endpoint", "body", "is_named"),
    [
        ("/v1/chat/completions", {"messages": [], "user": "ada"}, True),
        ("/v1/chat/completions", {"messages": [], "user": "adam"}, False),
        ("/v1/messages", {"messages": [], "metadata": {"user_id": "ada"}}, True),
        ("/v1/responses", {"input": "x", "user": "ada"}, True),
        ("/v1/chat/completions", {"messages": 7, "user": "ada"}, True),
        ("/v1/chat/completions", ["ada"], False),
    ],
)
def test_a_body_names_its_user_where_the_recorder_looks(
    endpoint: str, body: Any, *, is_named: bool
) -> None:
    names = names_of("ada", GENERATING)
    assert names(endpoint, json.dumps(body).encode()) is is_named
    assert names(endpoint, b'{"user": "ada"') is True


def test_what_has_no_result_leaves_a_tombstone_of_its_own(tmp_path: Path) -> None:
    connection = box(tmp_path / "box.db")
    connection.execute(
        "INSERT INTO conversations (conversation_id, created_at, metadata) VALUES ('c', 0, '{}')"
    )
    connection.execute(
        "INSERT INTO conversation_entries (conversation_id, at, kind, id, item) "
        "VALUES ('c', 0, 'item', 'i', '{}')"
    )
    connection.execute(
        "INSERT INTO line_marks (batch_id, custom_id, at, mark, after_seq, message) "
        "VALUES ('b', 'x', 0, 'refused', 0, 'a'), ('b', 'y', 0, 'refused', 0, 'b')"
    )
    params = ForgetKept(ids=("c", "none"), lines=(("b", "x"),))
    assert in_transaction(connection, forget_kept, params) == 1
    assert connection.execute("SELECT what, id FROM forgotten").fetchall() == [
        ("conversation", "c")
    ]
    assert connection.execute("SELECT count(*) FROM conversation_entries").fetchone() == (0,)
    assert connection.execute("SELECT custom_id FROM line_marks").fetchall() == [("y",)]


def test_an_overwritten_line_leaves_the_places_of_the_others(tmp_path: Path) -> None:
    connection = box(tmp_path / "box.db")
    texts = [
        json.dumps({"custom_id": name, "body": {"text": name * 100}}).encode() for name in "abc"
    ]
    whole = b"\n".join(texts) + b"\n"
    sha256 = hashlib.sha256(whole).hexdigest()
    path = tmp_path / "files" / sha256
    path.parent.mkdir()
    path.write_bytes(whole)
    limits = Limits(10, 10_000)
    before = list(lines_of(path, limits))

    def span(number: int, *, is_output: bool) -> Span:
        line = before[number]
        return Span(sha256=sha256, offset=line.offset, length=line.length, is_output=is_output)

    absent = Span(sha256="0" * 64, offset=0, length=5, is_output=False)
    beyond = Span(sha256=sha256, offset=len(whole) - 1, length=5, is_output=False)
    params = Overwrite(spans=(span(1, is_output=False), absent, beyond))
    assert in_transaction(connection, overwrite, params) == 1
    assert path.stat().st_size == len(whole)
    assert list(lines_of(path, limits)) == [before[0], before[2]]
    assert reread(path, before[1]) == b""
    assert reread(path, before[2]) == before[2].body
    in_transaction(connection, overwrite, Overwrite(spans=(span(1, is_output=True),)))
    assert json.loads(path.read_bytes().split(b"\n")[1])["error"]["code"] == "forgotten"
    assert connection.execute("SELECT DISTINCT what, id FROM forgotten").fetchall() == [
        ("lines", sha256)
    ]


def test_a_file_that_cannot_be_written_stops_it(tmp_path: Path) -> None:
    connection = box(tmp_path / "box.db")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / ("0" * 64)).mkdir()  # in the place of a file
    span = Span(sha256="0" * 64, offset=0, length=5, is_output=False)
    with pytest.raises(StoreError):
        in_transaction(connection, overwrite, Overwrite(spans=(span,)))
