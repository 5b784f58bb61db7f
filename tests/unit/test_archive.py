"""What is archived is verified before it is deleted, and comes back as it was, or not at all."""

import base64
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from support.records import make_result
from support.retaining import DAY_MS, IMAGE, Box, stored_rows
from support.terminal import on_terminal

from edge_store.archive import child, loading
from edge_store.archive.checking import check_archive
from edge_store.archive.forgetting import ForgetArchived, find_archived
from edge_store.archive.ledger import read_archives
from edge_store.archive.loading import restore, scratch, together
from edge_store.archive.store import ArchiveStore
from edge_store.archive.work import (
    LOST_HINT,
    Job,
    Written,
    carry_out,
    names_unknown,
    read_current,
    read_file,
)
from edge_store.chain import verify_chain
from edge_store.cli.main import cli
from edge_store.clock import now_ms
from edge_store.config import RetentionSection
from edge_store.errors import ArchiveFailed, InvalidRequest, NotFound
from edge_store.forget.choice import Who, choose, with_moved
from edge_store.logs.find import find_id, short_ids
from edge_store.query import run_query
from edge_store.receipt import State, read_receipt
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.recorder.holds import AddHold, add_hold
from edge_store.result import Content, Output, Status
from edge_store.retention.alone import alone_at_it
from edge_store.retention.passes import Pass
from edge_store.selection import Selection
from edge_store.sqlite import driver, open_reader
from edge_store.verify import verify_file

AGES = (9, 9, 8, 3, 2, 1)
PAGER = """
import sqlite3, sys
sys.stdin.read()
connection = sqlite3.connect(sys.argv[1], timeout=0)
print("busy:", connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0])
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path, AGES)
    yield box
    box.close()


def files_of(box: Box) -> list[str]:
    return ArchiveStore(str(box.archive)).names("box-test")


def odd_result(box: Box) -> None:
    """Values that are easily lost: NUL, emoji, several outputs, an image, no input text."""
    box.admitted += 1
    image = base64.b64encode(IMAGE).decode()
    body = msgspec.json.encode({"url": f"data:image/png;base64,{image}", "a": "\x00"})
    at = now_ms() - 9 * DAY_MS
    result = make_result(
        box.admitted, box.boot.boot_id, created_at=at, completed_at=at, latency_ms=0.1 + 0.2,
        error_message="a\x00b", request_model=None, idempotency_key_hash=b"\x00\xff",
        outputs=(
            Output(choice_index=0, output_text="a\x00b 😀", schema_valid=True, tool_calls="[9e9]"),
            Output(choice_index=1, output_text="", reasoning="因為"),
        ),
        content=Content(input_text=None, request_body=body, response_body=b""),
    )  # fmt: skip
    write_batch(box.connection, box.boot, read_head(box.connection), box.admitted, [result])


def test_archived_results_come_back_as_they_were(tmp_path: Path) -> None:
    box = Box(tmp_path, AGES[:3])
    odd_result(box)
    box.add(AGES[3:])
    box.connection.execute(
        "INSERT INTO annotations (at, id, kind, value) VALUES (0, ?, 'metadata', '{}')",
        (box.id_of(1),),
    )
    before = stored_rows(box.connection)
    done = box.put_away(keep_days=5)
    assert (done.results, done.files, box.seqs()) == (4, 3, [5, 6, 7])
    assert box.account()["archived"] == box.account()["deleted_retention"] == 4
    assert verify_chain(box.connection).faults == ()
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 4
    with closing(open_reader(target)) as old:
        assert stored_rows(old) == {seq: before[seq] for seq in (1, 2, 3, 4)}
        assert old.execute("SELECT value FROM annotations").fetchall() == [("{}",)]
        assert old.execute("SELECT count(*) FROM generations").fetchone() == (4,)
    box.close()


def test_bodies_and_their_results_meet_again(box: Box, tmp_path: Path) -> None:
    before = stored_rows(box.connection)
    assert box.put_away(content_days=2.5).contents == 4
    assert box.put_away(keep_days=5).results == 3
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 4
    with closing(open_reader(target)) as old:
        assert stored_rows(old) == {seq: before[seq] for seq in (1, 2, 3, 4)}


def test_results_alone_come_back_where_their_bodies_are_gone(box: Box, tmp_path: Path) -> None:
    box.run(content_days=5)
    box.put_away(keep_days=5)
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 3


def test_live_and_archived_results_answer_together(box: Box) -> None:
    box.put_away(keep_days=5, content_days=2.5)
    sums = "SELECT count(*), count(input_text) FROM generations"

    def asked(connection: Any, statement: str = sums) -> Any:
        return run_query(connection, statement, rows_max=9, timeout_s=60).rows

    assert asked(box.connection) == [(3, 2)]
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(6, 6)]
        assert asked(both, "SELECT sum(requests) FROM usage_by_day") == [(6,)]
        assert asked(both, "SELECT completed, archived FROM completeness") == [(3, 3)]
    with scratch(box.path, str(box.archive), (None, None)) as path, closing(open_reader(path)) as r:
        assert asked(r) == [(3, 3)]
    since = now_ms() - round(8.5 * DAY_MS)
    with together(box.path, str(box.archive), (since, None)) as both:
        assert asked(both) == [(4, 4)]


def test_pager_that_is_open_keeps_no_state_of_a_live_box(box: Box) -> None:
    box.run(archive=str(box.archive), keep_days=5)
    statement = "select a.id, b.id from generations as a, generations as b"
    command = [sys.executable, "-m", "edge_store", "query", "--with-archive", statement]
    config = box.path.with_name("edge-store.toml")
    config.write_text(f'[store]\npath = "{box.path}"\n[retention]\narchive = "{box.archive}"\n')
    environ = {
        **os.environ,
        "EDGE_STORE_CONFIG": str(config),
        "PAGER": shlex.join([sys.executable, "-c", PAGER, str(box.path)]),
        "LINES": "20",
    }
    code, shown = on_terminal(command, environ)
    assert (code, shown.strip()) == (0, "busy: 0")


SUMS = "SELECT count(*), count(input_text), count(DISTINCT id) FROM generations"


def asked(connection: Any, statement: str = SUMS) -> Any:
    return run_query(connection, statement, rows_max=9, timeout_s=60).rows


def once(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen when the first file of the archive is about to be read."""

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(loading, "read_current", read_current)
        happens()
        return read_current(*arguments)

    monkeypatch.setattr(loading, "read_current", meanwhile)


def test_file_that_forget_replaces_while_it_is_asked_for_is_answered_from_the_new_one(
    box: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forget() -> None:
        box.make("archive.forget", _forget([1, 3]))
        box.put_away()

    box.put_away(keep_days=5)
    once(monkeypatch, forget)
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(4, 4, 4)]
    once(monkeypatch, lambda: box.make("archive.forget", _forget([2])))
    with pytest.raises(NotFound):
        restore(box.path, str(box.archive), tmp_path / "old.db", (None, None))


def test_result_that_is_archived_meanwhile_is_there_once(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.put_away(keep_days=8.5)
    once(monkeypatch, lambda: box.put_away(keep_days=2.5))
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(6, 6, 6)]
        box.put_away(keep_days=1.5)
        assert asked(both) == [(6, 6, 6)], "it is one moment"
    once(monkeypatch, lambda: box.put_away(content_days=0.5))
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(6, 6, 6)]


def test_newest_that_was_said_of_a_result_counts_where_two_files_have_it(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, params: Any) -> Any:
        if name == "retention.delete" and 2 in params.seqs:
            _say(box, 2)
        return box.make(name, params)

    assert box.put_away(keep_days=5, make=make).kept_meanwhile == 1
    once(monkeypatch, lambda: box.put_away(keep_days=5))
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(6, 6, 6)]
        assert asked(both, "SELECT count(*) FROM annotations") == [(1,)]


def _say(box: Box, seq: int) -> None:
    statement = "INSERT INTO annotations (at, id, kind, value) VALUES (?, ?, 'metadata', '{}')"
    box.connection.execute(statement, (now_ms(), box.id_of(seq)))


@pytest.mark.parametrize("what", ["keep_days", "content_days"])
def test_what_is_in_a_file_and_not_deleted_yet_is_there_once(box: Box, what: str) -> None:
    def make(name: str, params: Any) -> Any:
        if name == "retention.delete":
            raise KeyboardInterrupt
        return box.make(name, params)

    with pytest.raises(KeyboardInterrupt):
        box.put_away(make=make, **{what: 5})
    with together(box.path, str(box.archive)) as both:
        assert asked(both) == [(6, 6, 6)]
        assert asked(both, "SELECT count(*) FROM requests") == [(6,)]


def test_numbers_of_repairs_and_images_are_those_of_one_result(tmp_path: Path) -> None:
    box = Box(tmp_path, [])
    odd_result(box)
    box.add([9, 1])
    body = box.connection.execute("SELECT sha256 FROM blobs").fetchone()

    def repair(seq: int) -> None:
        box.connection.execute(
            "INSERT INTO repairs (at, id, choice_index, output_json, json_state, repairer) "
            "VALUES (0, ?, 0, ?, 'repaired', 'r')",
            (box.id_of(seq), str(seq)),
        )

    repair(2)
    box.put_away(keep_days=5)
    box.connection.execute("DELETE FROM sqlite_sequence WHERE name = 'repairs'")
    repair(3)  # under the number that the other one had
    box.connection.execute("INSERT INTO blobs VALUES (?, 'image/png', x'00')", body)
    with together(box.path, str(box.archive)) as both:
        found = asked(both, "SELECT seq, output_json FROM generations ORDER BY seq")
        assert found == [(1, None), (2, "2"), (3, "3")]
        assert asked(both, "SELECT count(*) FROM blobs") == [(1,)]
    box.close()


def test_selection_narrows_live_and_archived_results_alike(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 1], response_model="a")
    box.add([8, 0.5], response_model="b", status=Status.FAILED)
    box.put_away(keep_days=5)
    since = now_ms() - round(8.5 * DAY_MS)

    def seqs(statement: str, **fields: Any) -> list[int]:
        chosen = Selection(**fields)
        span = (chosen.since, None)
        with together(box.path, str(box.archive), span, chosen, statement) as both:
            return sorted(seq for (seq,) in asked(both, statement))

    everything = "SELECT seq FROM results"
    assert seqs(everything) == [1, 2, 3, 4]
    assert seqs(everything, since=since) == [2, 3, 4]
    assert seqs(everything, until=since) == [1]
    assert seqs(everything, model="b") == [3, 4]
    assert seqs("SELECT seq FROM generations", status=Status.COMPLETED) == [1, 2]
    assert seqs("SELECT seq FROM outputs", model="a", since=since) == [2]
    assert seqs("SELECT seq FROM requests", model="b") == [3, 4]
    assert seqs("SELECT admitted FROM completeness", model="b") == [4], "it accounts for all"
    box.close()


def test_receipt_says_in_which_file_and_since_when(box: Box) -> None:
    name = box.id_of(1)
    box.put_away(keep_days=5)
    receipt = read_receipt(box.connection, name, None)
    assert receipt.state is State.ARCHIVED
    assert receipt.gone is not None
    assert receipt.gone.file == files_of(box)[0]
    assert receipt.gone.store == f"file://{box.archive}"
    assert receipt.committed is not None
    box.make("archive.forget", _forget([1]))
    assert read_receipt(box.connection, name, None).state is State.DELETED


def test_result_that_is_archived_is_told_with_the_command_that_shows_it(box: Box) -> None:
    name = box.id_of(1)
    box.put_away(keep_days=5)
    for asked_as in (name, f"resp_{name}"):
        refused = typed(box, "logs", "show", asked_as).exception
        assert isinstance(refused, NotFound)
        assert str(refused) == f"the result {name} is in the archive, not here any more"
        program, *command = shlex.split(refused.hint)
        assert program == "edge-store"
        done = typed(box, *command, "--json")
        assert [row["id"] for row in msgspec.json.decode(done.output)] == [name]
    box.make("archive.forget", _forget([1]))
    with pytest.raises(NotFound, match="there is no result"):
        find_id(box.connection, name)


def test_beginning_of_several_archived_ids_is_told(box: Box) -> None:
    one, other = box.id_of(1), box.id_of(2)
    begun = one[:8]
    assert other.startswith(begun)
    box.put_away(keep_days=0.5)
    with pytest.raises(NotFound, match=f"several ids in the archive begin with '{begun}': {one} "):
        find_id(box.connection, begun)


def test_beginning_that_an_archived_id_has_too_is_of_several(box: Box) -> None:
    archived, live = box.id_of(1), box.id_of(6)
    box.put_away(keep_days=5)
    begun = live[:8]
    assert archived.startswith(begun)
    delete_results(box.connection, box.seqs()[:-1], Reason.RETENTION)  # it begins alone here
    for command in (
        ["logs", "rm", begun, "--yes"],
        ["logs", "show", begun],
        ["logs", "pin", begun],
    ):
        refused = typed(box, *command).exception
        assert isinstance(refused, InvalidRequest)
        assert f"{live}, and" in str(refused)
        assert "in the archive" in str(refused)
    assert box.seqs() == [6]
    assert find_id(box.connection, live) == live
    (short,) = short_ids(box.connection, [live])
    assert find_id(box.connection, short) == live


def test_receipt_takes_the_beginning_of_what_is_here_and_of_what_is_gone(box: Box) -> None:
    archived, live = box.id_of(1), box.id_of(6)
    box.put_away(keep_days=5)
    for name, exit_code in ((archived, 1), (live, 0)):
        (short,) = short_ids(box.connection, [name])
        assert len(short) < len(name)
        done = typed(box, "receipt", short, "--json")
        assert (msgspec.json.decode(done.stdout)["id"], done.exit_code) == (name, exit_code)
    done = typed(box, "receipt", live[:8])
    assert done.exit_code == 2
    assert "several ids begin" in done.stderr
    assert isinstance(typed(box, "receipt", "0190d3e1").exception, NotFound)


def _forget(seqs: list[int]) -> Any:
    return ForgetArchived(seqs=tuple(seqs))


def test_forgotten_results_leave_their_files_and_never_come_back(box: Box, tmp_path: Path) -> None:
    box.put_away(keep_days=5)
    before = files_of(box)
    assert box.make("archive.forget", _forget([1, 3])) == 2
    target = tmp_path / "early.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 1  # before it is rewritten
    assert box.put_away().rewritten == 2
    after = files_of(box)
    assert (len(before), len(after)) == (2, 1)
    assert not set(before) & set(after)
    text = b"".join((box.archive / name).read_bytes() for name in after)
    assert b"question 1" not in text
    store = ArchiveStore(str(box.archive))
    left = [each for each in read_archives(box.connection) if each.rows]
    assert [row["seq"] for each in left for row in read_file(store, each)] == [2]
    assert box.account()["deleted_forget"] == 2
    assert verify_chain(box.connection).faults == ()
    assert box.put_away().rewritten == 0


def test_live_result_that_is_forgotten_loses_its_archived_bodies(box: Box) -> None:
    box.put_away(content_days=5)
    delete_results(box.connection, [2], Reason.FORGET)
    assert box.put_away().rewritten == 1
    store = ArchiveStore(str(box.archive))
    rows = [r["seq"] for a in read_archives(box.connection) if a.rows for r in read_file(store, a)]
    assert rows == [1, 3]


def test_nothing_is_deleted_when_the_file_is_not_what_was_written(box: Box) -> None:
    def spoiled(job: Job) -> Written:
        written = carry_out(job)
        raise ArchiveFailed(f"the disk lost {written.bytes} bytes")

    with pytest.raises(ArchiveFailed):
        box.put_away(keep_days=5, aside=spoiled)
    assert (box.seqs(), files_of(box)) == ([1, 2, 3, 4, 5, 6], [])
    assert read_archives(box.connection) == []


def test_file_that_was_changed_is_refused(box: Box, tmp_path: Path) -> None:
    box.put_away(keep_days=5)
    (name, *_) = files_of(box)
    path = box.archive / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ArchiveFailed, match="not as it was written"):
        restore(box.path, str(box.archive), tmp_path / "old.db", (None, None))


def typed(box: Box, *arguments: str) -> Result:
    config = box.path.with_name("asked.toml")
    archive = f'[retention]\narchive = "{box.archive}"\n'
    config.write_text(f'[store]\npath = "{box.path}"\n{archive}')
    return CliRunner().invoke(cli, [*arguments, "--config", str(config)])


def test_verify_counts_what_is_whole_and_says_what_to_do_about_the_rest(box: Box) -> None:
    box.put_away(keep_days=5)
    assert typed(box, "archive", "verify").output == "2 files, 3 results: as they were committed\n"
    for name in files_of(box):
        (box.archive / name).write_bytes(b"x")
    refused = typed(box, "archive", "query", "select 1").exception
    assert isinstance(refused, ArchiveFailed)
    assert refused.hint == LOST_HINT
    done = typed(box, "archive", "verify")
    assert done.exit_code == 1
    assert LOST_HINT in done.stderr
    assert done.stdout == (
        "2 of 2 files are missing or changed; in the others 0 results are as they were committed\n"
    )


def test_reading_commands_make_no_folder_and_say_that_there_is_none(box: Box) -> None:
    for command in (["archive", "ls"], ["archive", "verify"]):
        done = typed(box, *command)
        assert done.exit_code == 0
        assert f"the archive file://{box.archive} is not there yet" in done.stderr
    with pytest.raises(NotFound, match="nothing is archived"):
        restore(box.path, str(box.archive), box.path.with_name("old.db"), (None, None))
    assert not box.archive.exists()
    box.put_away(keep_days=5)
    box.archive.rename(box.archive.with_name("elsewhere"))
    assert "is its disk mounted?" in typed(box, "archive", "ls").stderr
    refused = typed(box, "archive", "verify").exception
    assert isinstance(refused, ArchiveFailed)
    with pytest.raises(ArchiveFailed, match=r"is not in the archive .*: is its disk mounted\?"):
        box.put_away(keep_days=0)
    assert "is not there: is its disk mounted?" in typed(box, "retention", "plan").stderr
    assert not box.archive.exists()


def test_files_that_forget_has_emptied_are_not_counted(box: Box) -> None:
    box.put_away(keep_days=8.5)
    box.put_away(keep_days=5)
    box.make("archive.forget", _forget([1, 2]))
    box.put_away()
    done = typed(box, "archive", "ls", "--json")
    assert [row["rows"] for row in msgspec.json.decode(done.stdout)] == [1]
    assert "1 more had only what was forgotten since" in done.stderr
    assert typed(box, "archive", "verify").stdout == "1 file, 1 result: as they were committed\n"


def test_restored_results_have_one_fault_for_the_commits_that_they_lack(
    box: Box, tmp_path: Path
) -> None:
    box.put_away(keep_days=5)
    old = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), old, (None, None)) == 3
    (fault,) = verify_file(old).faults
    assert fault.startswith("the file has no commits, and 3 results and deletions")
    with closing(driver.connect(str(old))) as connection:
        connection.execute("UPDATE results SET latency_ms = 1e9 WHERE seq = 2")
        connection.commit()
    lack, changed = verify_file(old).faults
    assert lack == fault
    assert changed.startswith("seq 2 (")


def test_file_that_a_pass_writes_now_is_not_called_unknown(box: Box) -> None:
    store = ArchiveStore(str(box.archive))
    seen: list[tuple[list[str], list[str]]] = []

    def looked_at(job: Job) -> Written:
        written = carry_out(job)
        seen.append((files_of(box), names_unknown(store, box.connection, "box-test")))
        return written

    box.put_away(keep_days=5, aside=looked_at)
    box.make("archive.forget", _forget([1]))
    box.put_away(aside=looked_at)
    assert seen
    assert all(files and not unknown for files, unknown in seen)
    (box.archive / files_of(box)[0]).with_name("stray.parquet").write_bytes(b"")
    assert [Path(name).name for name in names_unknown(store, box.connection, "box-test")] == [
        "stray.parquet"
    ]


def test_file_that_forget_writes_anew_meanwhile_is_no_fault(box: Box) -> None:
    box.put_away(keep_days=5)
    store = ArchiveStore(str(box.archive))
    before = read_archives(box.connection)
    box.make("archive.forget", _forget([1, 3]))
    box.put_away()
    assert sum(len(read_current(store, box.connection, each)) for each in before) == 1
    (name,) = files_of(box)
    (box.archive / name).unlink()
    with pytest.raises(ArchiveFailed, match="is not in the archive"):
        [read_current(store, box.connection, each) for each in before]


def test_result_that_was_changed_in_the_database_stays_there(box: Box) -> None:
    box.connection.execute("UPDATE results SET user_id = 'x' WHERE seq = 2")
    done = box.put_away(keep_days=5)
    assert (done.odd, done.results, box.seqs()) == (1, 2, [2, 4, 5, 6])


@pytest.mark.parametrize("off", [0, -DAY_MS, DAY_MS])
def test_what_is_said_of_a_result_after_its_file_was_written_is_archived_too(
    box: Box, tmp_path: Path, off: int
) -> None:
    def say(at: int) -> None:
        statement = "INSERT INTO annotations (at, id, kind, value) VALUES (?, ?, 'metadata', ?)"
        box.connection.execute(statement, (at, box.id_of(2), f'{{"at": {at}}}'))

    def make(name: str, params: Any) -> Any:
        if name == "retention.delete" and 2 in params.seqs:
            say(now_ms() + off)  # the clock may have been set meanwhile
        return box.make(name, params)

    say(now_ms() + DAY_MS)  # by a clock that was wrong: no reason to keep it for ever
    done = box.put_away(keep_days=5, make=make)
    assert (done.results, done.kept_meanwhile, box.seqs()) == (2, 1, [2, 4, 5, 6])
    said = box.connection.execute("SELECT value FROM annotations ORDER BY 1").fetchall()
    assert box.put_away(keep_days=5).results == 1
    target = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), target, (None, None)) == 3
    with closing(open_reader(target)) as old:
        assert old.execute("SELECT value FROM annotations ORDER BY 1").fetchall() == said


@pytest.mark.parametrize("cut", range(1, 12))
def test_pass_that_is_cut_anywhere_loses_nothing_and_is_finished(box: Box, cut: int) -> None:
    calls = 0

    def make(name: str, params: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise KeyboardInterrupt(name)
        return box.make(name, params)

    try:
        box.put_away(keep_days=5, make=make)
    except KeyboardInterrupt as exc:
        assert str(exc)  # noqa: PT017
    account = box.account()
    assert account["completed"] + account["deleted_retention"] == 6
    assert account["archived"] == account["deleted_retention"]
    box.put_away(keep_days=5)
    store = ArchiveStore(str(box.archive))
    files = read_archives(box.connection)
    rows = sorted(row["seq"] for each in files for row in read_file(store, each))
    assert (rows, box.seqs()) == ([1, 2, 3], [4, 5, 6])
    assert sorted(each.file for each in files) == files_of(box)
    assert all(each.emptied_at for each in files)


@pytest.mark.parametrize("cut", range(1, 4))
def test_rewrite_that_is_cut_anywhere_leaves_nothing_forgotten(box: Box, cut: int) -> None:
    box.put_away(keep_days=5)
    box.make("archive.forget", _forget([1]))
    calls = 0

    def make(name: str, params: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise KeyboardInterrupt(name)
        return box.make(name, params)

    with pytest.raises(KeyboardInterrupt):
        box.put_away(make=make)
    box.put_away()
    files = read_archives(box.connection)
    store = ArchiveStore(str(box.archive))
    assert sorted(row["seq"] for each in files for row in read_file(store, each)) == [2, 3]
    assert sorted(each.file for each in files) == files_of(box)


@pytest.mark.parametrize("mount", ["an empty folder", "no folder"])
@pytest.mark.parametrize("gone", [[1], [1, 2]], ids=["a part", "all"])
def test_file_that_forget_has_replaced_is_remembered_until_its_disk_is_there(
    box: Box, tmp_path: Path, gone: list[int], mount: str
) -> None:
    box.put_away(keep_days=8.5)
    (old,) = files_of(box)
    box.make("archive.forget", _forget(gone))
    work = Pass(box.path, RetentionSection(archive=str(box.archive)), box.make, aside=carry_out)

    def make(name: str, params: Any) -> Any:
        value = box.make(name, params)
        if name == "archive.end_rewrite":
            raise KeyboardInterrupt
        return value

    with pytest.raises(KeyboardInterrupt):
        box.put_away(make=make)
    box.archive.rename(tmp_path / "unmounted")
    if mount == "an empty folder":
        box.archive.mkdir()
    for again in (work.forget, box.put_away):
        with pytest.raises(ArchiveFailed, match="is its disk mounted"):
            again()
    if box.archive.exists():
        box.archive.rmdir()
    (tmp_path / "unmounted").rename(box.archive)
    assert old in files_of(box)
    work.forget()
    (left,) = read_archives(box.connection)
    assert left.stale is None
    assert files_of(box) == [left.file] * (left.rows > 0) != [old]


def cut_before_the_old_file_is_cleared(box: Box) -> None:
    def make(name: str, params: Any) -> Any:
        if name == "archive.clear_stale":
            raise KeyboardInterrupt
        return box.make(name, params)

    with pytest.raises(KeyboardInterrupt):
        box.put_away(make=make)


def test_emptied_file_that_is_removed_already_is_no_disk_that_is_away(box: Box) -> None:
    box.put_away(keep_days=8.5)
    box.make("archive.forget", _forget([1, 2]))
    cut_before_the_old_file_is_cleared(box)
    assert files_of(box) == []
    box.put_away()
    assert [each.stale for each in read_archives(box.connection)] == [None]
    assert list(box.archive.iterdir()) == [], "nor is a folder left"


def forget_user(box: Box, user: str) -> Any:
    """What the command says of the archive."""
    settings = {
        "STORE__PATH": str(box.path),
        "REPLICA__ENABLED": "false",
        "RETENTION__ARCHIVE": str(box.archive),
    }
    (box.path.parent / "edge-store.toml").touch()
    environ = {**os.environ, **{f"EDGE_STORE_{key}": text for key, text in settings.items()}}
    command = [sys.executable, "-m", "edge_store", "forget", "--user", user, "--yes"]
    done = subprocess.run(
        [*command, "--config", str(box.path.parent)],
        env=environ, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return msgspec.json.decode(done.stdout)["remains"]["archive"]


def test_archive_is_pending_only_where_something_forgotten_may_be_in_it(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 9], user_id="bob")
    box.add([1, 1], user_id="ada")
    box.put_away(keep_days=5)
    box.close()
    with alone_at_it(box.path):  # a pass is under way
        assert forget_user(box, "ada") == "nothing"
        assert forget_user(box, "bob").startswith("pending: retention is at work already")


def test_archive_is_pending_while_an_older_file_is_still_to_go(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 9], user_id="bob")
    box.add([1, 1], user_id="ada")
    box.put_away(keep_days=5)
    box.make("archive.forget", _forget([1, 2]))
    cut_before_the_old_file_is_cleared(box)
    box.close()
    box.archive.rename(tmp_path / "unmounted")
    assert "is its disk mounted" in forget_user(box, "ada")


def test_who_is_forgotten_is_found_in_the_archive(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 8], user_id="ada")
    box.add([7], previous_id=box.id_of(2))
    box.add([6, 1])
    box.put_away(keep_days=5)
    away = find_archived(box.path, str(box.archive), Who("ada", None, 9.0))
    choice = choose(box.connection, Who("ada", None, 9.0), None, away)
    assert (list(choice.archived), list(choice.results), choice.following) == ([1, 2, 3], [], 1)
    box.close()


def test_what_retention_moves_while_the_archive_is_searched_is_forgotten(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 8], user_id="ada")
    box.put_away(keep_days=8.5)
    who = Who("ada", None, 9.0)
    before = choose(box.connection, who, None)
    away = find_archived(box.path, str(box.archive), who)
    box.put_away(keep_days=5)
    choice = with_moved(choose(box.connection, who, None, away), before)
    assert (list(choice.archived), choice.results, choice.held) == ([1, 2], {}, [])
    assert box.make("archive.forget", _forget(list(choice.archived))) == 2
    box.put_away()
    assert files_of(box) == []
    box.close()


def hold(box: Box, name: str, **selection: Any) -> None:
    add_hold(box.connection, AddHold(name=name, selection=Selection(**selection)))


def test_hold_over_archived_results_stops_forget(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 8], user_id="ada")
    box.add([7, 2], user_id="bob", previous_id=box.id_of(1))  # which holds what she was told
    box.add([1], user_id="ada")
    names = [box.id_of(seq) for seq in range(1, 6)]
    box.put_away(keep_days=5)
    asked = ("forget", "--user", "ada")
    counts = msgspec.json.decode(typed(box, *asked, "--dry-run").output)
    assert (counts["archived"], counts["results"], counts["held"]) == (3, 2, 0)
    hold(box, "case-17", user="ada")
    refused = typed(box, *asked, "--yes").exception
    assert str(refused).startswith(
        f"3 of the 5 results chosen, the first of them {names[4]}, are h"
    )
    hold(box, "case-18", user="bob")
    assert msgspec.json.decode(typed(box, *asked, "--dry-run").output)["held"] == 5
    box.close()


def test_hold_over_what_retention_moves_meanwhile_counts(tmp_path: Path) -> None:
    box = Box(tmp_path, [9, 8], user_id="ada")
    who = Who("ada", None, 9.0)
    hold(box, "case-17", user="ada")
    before = choose(box.connection, who, None)
    box.connection.execute("UPDATE holds SET ended_at = 1")
    away = find_archived(box.path, str(box.archive), who)
    box.put_away(keep_days=5)
    assert with_moved(choose(box.connection, who, None, away), before).held == before.held
    assert len(before.held) == 2
    box.close()


def test_file_that_reads_back_otherwise_deletes_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ArchiveStore.put

    def lossy(self: ArchiveStore, name: str, content: bytes) -> None:
        put(self, name, content[:-1] + b"x")

    monkeypatch.setattr(ArchiveStore, "put", lossy)
    with pytest.raises(ArchiveFailed, match="not as it was written"):
        box.put_away(keep_days=5)
    assert (box.seqs(), files_of(box)) == ([1, 2, 3, 4, 5, 6], [])


def test_pass_that_is_stopped_asks_nothing_more_of_the_store(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(ArchiveStore, "delete", lambda _self, name: removed.append(name))

    def stopped(_job: Job) -> Written:
        box.stop.set()
        raise ArchiveFailed("the archive's process was stopped")

    with pytest.raises(ArchiveFailed):
        box.put_away(keep_days=5, aside=stopped)
    assert removed == []
    assert len(read_archives(box.connection, unsettled=True)) == 1, "the next pass settles it"
    assert len(box.seqs()) == len(AGES)


def test_what_the_archives_process_did_not_foresee_is_told_without_its_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unforeseen(_job: Job) -> Written:
        raise RuntimeError("a prompt")

    said = io.BytesIO()
    monkeypatch.setattr(child, "carry_out", unforeseen)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(said))
    child.main()
    answer = msgspec.json.decode(said.getvalue(), type=child.Answer)
    assert answer.error == "the archive's process met RuntimeError in unforeseen"


def test_store_that_is_away_is_asked_once_and_named(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.put_away(keep_days=5)
    told: list[str] = []
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    away = ArchiveStore("s3://gone/x?endpoint=http://127.0.0.1:1&region=us-east-1")
    with pytest.raises(ArchiveFailed, match=r"the archive s3://gone/x"):
        check_archive(away, box.connection, "box-test", told.append)
    folder = box.archive.with_name("empty")
    empty = ArchiveStore(str(folder))
    with pytest.raises(ArchiveFailed, match=r"the archive file://.*empty: there is no such folder"):
        check_archive(empty, box.connection, "box-test", told.append)
    folder.mkdir()
    with pytest.raises(
        ArchiveFailed, match=r"none of its 2 files is in the archive file://.*empty"
    ):
        check_archive(empty, box.connection, "box-test", told.append)
    assert told == []


def test_store_that_goes_away_meanwhile_ends_the_check(box: Box) -> None:
    box.put_away(keep_days=5)
    told: list[str] = []
    asked_for: list[str] = []

    class Leaving(ArchiveStore):
        def get(self, name: str) -> bytes | None:
            asked_for.append(name)
            raise ArchiveFailed(f"the archive {self} does not answer")

    with pytest.raises(ArchiveFailed, match="does not answer"):
        check_archive(Leaving(str(box.archive)), box.connection, "box-test", told.append)
    assert (told, len(asked_for)) == ([], 2)
    files = files_of(box)
    (box.archive / files[0]).unlink()
    store = ArchiveStore(str(box.archive))
    checked = check_archive(store, box.connection, "box-test", told.append)
    assert (checked.files, checked.bad, checked.rows) == (2, 1, 1)
    assert files[0] in told[0]


def test_folder_that_cannot_be_written_deletes_nothing(box: Box) -> None:
    box.archive.write_text("a file")
    with pytest.raises(ArchiveFailed):
        box.put_away(keep_days=5)
    assert box.seqs() == [1, 2, 3, 4, 5, 6]


def test_disk_that_is_not_mounted_gets_no_files(box: Box, tmp_path: Path) -> None:
    box.put_away(keep_days=8.5)
    box.archive.rename(tmp_path / "unmounted")
    box.archive.mkdir()
    with pytest.raises(ArchiveFailed, match="is not in the archive"):
        box.put_away(keep_days=5)
    assert (box.seqs(), files_of(box)) == ([3, 4, 5, 6], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_archives_is_the_database_owners(tmp_path: Path) -> None:
    box = Box(tmp_path, (9, 8, 3))
    os.chown(box.path, 12345, 12346)
    assert box.put_away(keep_days=5).results == 2
    made = [box.archive, *box.archive.rglob("*")]
    assert {(each.stat().st_uid, each.stat().st_gid) for each in made} == {(12345, 12346)}
    other = tmp_path / "other"  # one that was there, and has something else
    (other / "theirs").mkdir(parents=True)
    box.archive = other
    assert box.put_away(keep_days=2).results == 1
    assert {each.stat().st_uid for each in other.rglob("*.parquet")} == {12345}
    assert (other.stat().st_uid, (other / "theirs").stat().st_uid) == (0, 0)
    box.close()
