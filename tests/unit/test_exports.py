"""Exports: what each kind holds, and how one goes on where it ended."""

import csv
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support.exporting import DAY_MS, NOON, box_of, chat, exported, receiver, store
from support.records import new_database

from edge_store.cli.main import cli
from edge_store.errors import ExportFailed, InvalidRequest
from edge_store.exports import otlp, pages, parquet
from edge_store.exports.kinds import Job
from edge_store.exports.lines import LineOf
from edge_store.exports.mark import keeping, mark_beside, read_mark
from edge_store.exports.run import begun, export
from edge_store.result import Boot, Content, Operation, Output, Status
from edge_store.rows import load_recorded
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection
from edge_store.wal import checkpoint

Json = dict[str, Any]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[tuple[Path, Connection, Boot]]:
    path = tmp_path / "results.db"
    connection, boot = box_of(path, 250)
    yield path, connection, boot
    connection.close()


def lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_holds_all_of_a_result(box: tuple[Path, Connection, Boot], tmp_path: Path) -> None:
    path, connection, _ = box
    target = tmp_path / "all.jsonl"
    mark = exported(path, target, "jsonl", bodies=True)

    cursor = connection.execute(sql("select_result_by_id"), {"id": lines(target)[7]["id"]})
    (recorded,) = load_recorded(connection, cursor)
    read = LineOf()
    assert read(target.read_bytes().splitlines()[7])[0] == recorded.result
    assert (mark.rows, mark.seq, mark.skipped) == (250, 250, {})
    assert mark.offset == target.stat().st_size
    assert [line["seq"] for line in lines(target)] == list(range(1, 251))


def test_without_bodies_a_line_has_the_prompt_and_no_bytes(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    exported(box[0], tmp_path / "x", "jsonl")
    first = lines(tmp_path / "x")[0]
    assert first["input_text"] == "q1"
    assert "request_body" not in first


def test_a_selection_narrows_an_export(box: tuple[Path, Connection, Boot], tmp_path: Path) -> None:
    chosen = Selection(since=NOON + DAY_MS, until=NOON + 2 * DAY_MS)
    mark = exported(box[0], tmp_path / "x", "jsonl", selection=chosen)
    assert [line["seq"] for line in lines(tmp_path / "x")] == list(range(100, 200))
    assert (mark.rows, mark.seq) == (100, 250)


def test_an_export_does_not_overwrite_unless_it_is_forced(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    target = tmp_path / "x"
    target.write_text("mine")
    with pytest.raises(InvalidRequest, match="is there already"):
        exported(box[0], target, "jsonl")
    assert target.read_text() == "mine"
    exported(box[0], target, "jsonl", restart=True)
    assert len(lines(target)) == 250


def test_a_state_is_no_target(box: tuple[Path, Connection, Boot], tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    done = CliRunner().invoke(cli, ["export", target, "--state", target, "--db", str(box[0])])
    assert (done.exit_code, "--state names the target itself" in done.output) == (2, True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_two_exports_do_not_write_to_one_place(
    box: tuple[Path, Connection, Boot], tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "x"
    exported(box[0], target, kind)

    def content() -> Any:
        parts = {part: part.read_bytes() for part in target.rglob("*.parquet")}
        return parts or target.read_bytes()

    before, mark = content(), mark_beside(target).read_bytes()
    held = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the other one does
        for more in ({"resume": True}, {"restart": True}):
            with pytest.raises(InvalidRequest, match="another export writes to"):
                exported(box[0], target, kind, **more)
    finally:
        os.close(held)
    assert content() == before
    assert mark_beside(target).read_bytes() == mark, "the other one's"


def test_two_exports_do_not_keep_one_state(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    state = tmp_path / "s"
    with receiver() as server:
        exported(box[0], server.url, "otlp", state=state)
        before = state.read_bytes()
        other = f"another export, process {os.getpid()}, keeps its state in {state}"
        with keeping(state):  # as the other one does
            for target, kind, more in (
                (server.url, "otlp", {"resume": True}),
                (server.url, "otlp", {"restart": True}),
                (tmp_path / "x", "jsonl", {"restart": True}),
            ):
                with pytest.raises(InvalidRequest, match=re.escape(other)):
                    exported(box[0], target, kind, state=state, **more)
        assert (state.read_bytes(), (tmp_path / "x").exists()) == (before, False)
        exported(box[0], server.url, "otlp", state=state, resume=True)
    exported(box[0], tmp_path / "x", "jsonl")
    assert not list(tmp_path.glob(".*")), "the locks are gone with their exports"


@pytest.mark.parametrize("spelling", ["absolute", "relative", "symbolic link", "through a folder"])
def test_a_state_in_its_default_place_is_one_in_all_spellings(
    box: tuple[Path, Connection, Boot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spelling: str,
) -> None:
    state = mark_beside(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(state)
    spelled = {
        "absolute": state,
        "relative": Path("sub/../x.state.json"),
        "symbolic link": Path("link"),
        "through a folder": Path("folder") / state.name,
    }[spelling]
    refusals: list[str] = []

    def beside(self: pages.Source, after: int, fetch: pages.Fetch) -> Iterator[pages.Page]:
        arguments = ["export", "y", "--state", str(spelled), "--force", "--db", str(box[0])]
        refusals.append(str(CliRunner().invoke(cli, arguments).exception))
        yield from took(self, after, fetch)

    took = pages.Source.pages
    monkeypatch.setattr(pages.Source, "pages", beside)
    exported(box[0], tmp_path / "x", "jsonl")
    assert len(refusals) == 1, "the second came to no page of its own"
    assert f"process {os.getpid()}, keeps its state in {state}" in refusals[0]
    assert not (tmp_path / "y").exists()


def test_a_state_behind_a_symbolic_link_is_kept_where_that_leads_to(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "s")
    arguments = ["export", str(tmp_path / "x"), "--state", str(tmp_path / "link"), "--db"]
    done = CliRunner().invoke(cli, [*arguments, str(box[0])])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "link").is_symlink()
    assert read_mark(tmp_path / "s") is not None


OTHERS: dict[str, tuple[str, str, Json]] = {
    "kind": ("x", "csv", {}),
    "output": ("y", "jsonl", {}),
    "filters": ("x", "jsonl", {"selection": Selection(status=Status.FAILED)}),
    "bodies": ("x", "jsonl", {"bodies": True}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_export_is_not_written_over(
    box: tuple[Path, Connection, Boot], tmp_path: Path, other: str
) -> None:
    target, kind, more = OTHERS[other]
    state = tmp_path / "s"
    first = exported(box[0], tmp_path / "x", "jsonl", state=state,
                     selection=Selection(model="demo", since=NOON))  # fmt: skip
    (tmp_path / "x").rename(tmp_path / "moved")
    more = {"selection": first.selection, **more}
    before = state.read_bytes()
    whose = (
        f"{state} is the state of another export: of {first.device_id} to jsonl, x (since "
        "2025-10-09T12:00:00.000Z, model demo), which came to seq 250"
    )
    with pytest.raises(InvalidRequest, match=re.escape(whose)) as caught:
        exported(box[0], tmp_path / target, kind, state=state, **more)
    assert "--state of its own; --force writes over that one" in caught.value.hint
    assert state.read_bytes() == before
    assert not (tmp_path / target).exists()
    exported(box[0], tmp_path / target, kind, state=state, restart=True, **more)
    assert state.read_bytes() != before


def test_its_own_state_is_not_written_over_where_the_file_is_gone(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    exported(box[0], tmp_path / "x", "jsonl", state=tmp_path / "s")
    (tmp_path / "x").unlink()
    with pytest.raises(InvalidRequest, match="s is there already") as caught:
        exported(box[0], tmp_path / "x", "jsonl", state=tmp_path / "s")
    assert "--force begins it anew" in caught.value.hint


def test_a_file_that_is_no_state_is_not_written_over_by_force_either(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("my notes")
    for more in ({"restart": True}, {"resume": True}, {}):
        with pytest.raises(InvalidRequest, match="mine is not the state of an export") as caught:
            exported(box[0], tmp_path / "x", "jsonl", state=tmp_path / "mine", **more)
        assert "name another --state" in caught.value.hint
    assert (tmp_path / "mine").read_text() == "my notes"


@pytest.mark.parametrize("end", ["", "-wal"])
def test_the_database_is_not_written_over_by_force(
    box: tuple[Path, Connection, Boot], tmp_path: Path, end: str
) -> None:
    (tmp_path / "link").symlink_to(f"{box[0]}{end}")
    chosen: tuple[Json, ...] = ({}, {"state": tmp_path / "link"})
    for more in chosen:
        target = tmp_path / ("x" if more else "link")
        with pytest.raises(InvalidRequest, match="is the database that is to be exported"):
            exported(box[0], target, "jsonl", restart=True, **more)
    assert exported(box[0], tmp_path / "x", "jsonl").rows == 250


def test_an_empty_file_is_no_state_yet(box: tuple[Path, Connection, Boot], tmp_path: Path) -> None:
    (tmp_path / "s").touch()  # as mktemp makes one
    assert exported(box[0], tmp_path / "x", "jsonl", state=tmp_path / "s").rows == 250
    assert (tmp_path / "s").stat().st_size


@pytest.mark.parametrize("is_another", [False, True])
def test_no_database_is_written_over_by_force_whatever_it_is_called(
    box: tuple[Path, Connection, Boot], tmp_path: Path, *, is_another: bool
) -> None:
    there = tmp_path / "there.jsonl"
    if is_another:
        connection, _ = box_of(tmp_path / "other.db", 1)
        connection.close()
        there.write_bytes((tmp_path / "other.db").read_bytes())
    else:
        there.hardlink_to(box[0])
    before = there.read_bytes()
    chosen: tuple[tuple[Path, Json], ...] = ((there, {}), (tmp_path / "x", {"state": there}))
    for target, more in chosen:
        with pytest.raises(InvalidRequest, match=r"there\.jsonl is (the|a) database"):
            exported(box[0], target, "jsonl", restart=True, **more)
    assert there.read_bytes() == before


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["its own name", "a hard link", "empty", "not there"])
def test_what_belongs_to_another_database_is_not_written_over_by_force(
    box: tuple[Path, Connection, Boot], tmp_path: Path, end: str, kind: str
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    connection, _ = box_of(folder / "other.db", 1)
    connection.execute(f"PRAGMA journal_mode = {'persist' if end == '-journal' else 'wal'}")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("PRAGMA cache_spill = 1")
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("INSERT INTO t SELECT randomblob(9000) FROM results, sqlite_schema")
    part = folder / f"other.db{end}"
    if kind == "a hard link":
        assert part.stat().st_size, "else nothing tells what it is"
        (folder / "there").hardlink_to(part)
        part = folder / "there"
    elif kind != "its own name":  # as after an end, or a checkpoint that emptied it
        connection.execute("ROLLBACK")
        connection.close()
        part.unlink(missing_ok=True)
        if kind == "empty":
            part.touch()
    before = part.read_bytes() if part.exists() else None
    chosen: tuple[tuple[Path, Json], ...] = ((part, {}), (tmp_path / "x", {"state": part}))
    for target, more in chosen:
        with pytest.raises(InvalidRequest, match="belongs to a database of SQLite"):
            exported(box[0], target, "jsonl", restart=True, **more)
    assert (part.read_bytes() if part.exists() else None) == before
    connection.close()


def test_a_name_like_a_wal_of_no_database_is_a_name(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    assert exported(box[0], tmp_path / "results.jsonl-wal", "jsonl").rows == 250


@pytest.mark.parametrize("target", [".", "/", "a/..", ""])
def test_what_is_no_name_is_no_target(target: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name for an export"):
        mark_beside(Path(target))


def test_a_pipe_is_no_file_even_by_force(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidRequest, match="is a pipe, and no file") as told:
        exported(box[0], pipe, "jsonl", restart=True)
    assert f"- > {pipe}" in told.value.hint


def test_two_new_exports_with_one_state_do_not_both_begin(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    state = tmp_path / "s"
    asked = Job("csv", str(tmp_path / "y"), Selection())
    with pages.Source(box[0]) as source:
        mark = begun(asked, source, state, resume=False, after=0)
        exported(box[0], tmp_path / "x", "jsonl", state=state)  # from its begin to its end
        before = state.read_bytes()
        with pytest.raises(InvalidRequest, match="another export has changed"):
            export(asked, source, mark, state)
    assert state.read_bytes() == before


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_a_kill_leaves_before_the_first_mark_is_completed(
    box: tuple[Path, Connection, Boot], tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "x"
    target.mkdir() if kind == "parquet" else target.touch()
    assert exported(box[0], target, kind, resume=True).rows == 250


def test_a_mark_that_another_export_has_changed_is_not_gone_on_from(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    path, connection, boot = box
    target, state = tmp_path / "x", tmp_path / "x.state.json"
    exported(path, target, "jsonl")
    asked = Job("jsonl", str(target), Selection())
    with pages.Source(path) as source:
        mark = begun(asked, source, state, resume=True, after=0)
        store(connection, boot, [chat(n, boot) for n in range(251, 261)])
        exported(path, target, "jsonl", resume=True)  # ends before this one has the lock
        before = target.read_bytes(), state.read_bytes()
        with pytest.raises(InvalidRequest, match="has changed"):
            export(asked, source, mark, state)
    assert (target.read_bytes(), state.read_bytes()) == before


def test_a_file_that_is_called_packed_is_not_written_as_it_is(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="would not be packed") as caught:
        exported(box[0], tmp_path / "x.jsonl.zst", "jsonl")
    assert "export --to jsonl - | zstd > " in caught.value.hint
    assert not (tmp_path / "x.jsonl.zst").exists()


def test_an_export_that_is_cut_at_the_keyboard_says_how_it_goes_on(
    box: tuple[Path, Connection, Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> Iterator[pages.Page]:
        raise KeyboardInterrupt

    arguments = ["export", str(tmp_path / "x"), "--db", str(box[0])]
    with monkeypatch.context() as patch:
        patch.setattr(pages.Source, "pages", cut)
        said = CliRunner().invoke(cli, arguments).stderr
        standard = CliRunner().invoke(cli, ["export", "-", "--db", str(box[0])]).stderr
    state = mark_beside(tmp_path / "x")
    assert f"edge-store: cut: 0 results to {tmp_path / 'x'}, up to seq 0" in said
    assert f"  given again with --resume it goes on from there, by {state}" in said
    assert "--resume" not in standard
    assert CliRunner().invoke(cli, [*arguments, "--resume"]).exit_code == 0
    assert len(lines(tmp_path / "x")) == 250


def test_a_folder_that_is_not_there_is_told_with_a_name_that_was_given(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    target = tmp_path / "absent" / "x"
    said = f"{mark_beside(target)} cannot be written: No such file or directory"
    with pytest.raises(ExportFailed, match=re.escape(said)):
        exported(box[0], target, "jsonl")


def test_a_full_disk_is_told_with_the_file_and_what_to_do(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    target = tmp_path / "x"
    target.symlink_to("/dev/full")
    with pytest.raises(ExportFailed, match="x cannot be written: No space left") as caught:
        exported(box[0], target, "jsonl", restart=True)
    assert "--resume" in caught.value.hint
    target.unlink()
    assert exported(box[0], target, "jsonl", resume=True).rows == 250


def test_a_folder_of_parquet_is_not_written_for_standard_output(tmp_path: Path) -> None:
    arguments = ["export", "--to", "parquet", "-", "--db", str(tmp_path / "results.db")]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, "writes a folder" in done.output) == (2, True)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_is_behind_the_mark_is_cut_and_written_again(
    box: tuple[Path, Connection, Boot], tmp_path: Path, kind: str
) -> None:
    path, connection, boot = box
    whole, target = tmp_path / "whole", tmp_path / "cut"
    exported(path, target, kind)
    exported(path, whole, kind)
    with target.open("ab") as file:
        file.write(b'{"half a line')
    exported(path, target, kind, resume=True)
    assert target.read_bytes() == whole.read_bytes()
    with target.open("ab") as file:
        file.write(b'{"half a line')
    store(connection, boot, [chat(n, boot) for n in range(251, 260)])
    exported(path, target, kind, resume=True)
    exported(path, whole, kind, restart=True)
    assert target.read_bytes() == whole.read_bytes()


def test_another_boxs_export_is_not_gone_on_with(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    exported(box[0], tmp_path / "x", "jsonl")
    other, boot = new_database(tmp_path / "other.db", box[2].device_id)
    store(other, boot, [chat(n, boot) for n in range(1, 260)])
    other.close()
    with pytest.raises(InvalidRequest, match="restored from before"):
        exported(tmp_path / "other.db", tmp_path / "x", "jsonl", resume=True)
    third, _ = new_database(tmp_path / "third.db", type(boot.device_id)("box-third"))
    third.close()
    with pytest.raises(InvalidRequest, match="third"):
        exported(tmp_path / "third.db", tmp_path / "x", "jsonl", resume=True)


def test_an_export_goes_on_with_its_own_filters_only(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    exported(box[0], tmp_path / "x", "jsonl", selection=Selection(model="demo"))
    with pytest.raises(InvalidRequest, match="filters"):
        exported(box[0], tmp_path / "x", "jsonl", resume=True, selection=Selection(model="other"))
    assert exported(box[0], tmp_path / "x", "jsonl", resume=True).selection.model == "demo"


def test_an_export_goes_on_to_where_it_went(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    state = tmp_path / "s"
    exported(box[0], tmp_path / "x", "jsonl", state=state)
    for target, kind in (("y", "jsonl"), ("x", "csv")):
        with pytest.raises(InvalidRequest, match=r"is the state of an export of .* to jsonl, x"):
            exported(box[0], tmp_path / target, kind, resume=True, state=state)


def test_a_page_is_bounded_and_does_not_hold_the_wal(
    box: tuple[Path, Connection, Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connection, boot = box
    monkeypatch.setattr(pages, "PAGE_BYTES", 10_000)
    sizes: list[int] = []
    took = pages.Source._page

    def noted(self: pages.Source, after: int, fetch: pages.Fetch) -> pages.Page | None:
        store(connection, boot, [chat(1000 + len(sizes), boot)])
        assert checkpoint(connection), "the page before is still being read"
        page = took(self, after, fetch)
        sizes.append(len(page.rows) if page else 0)
        return page

    monkeypatch.setattr(pages.Source, "_page", noted)
    exported(path, tmp_path / "x", "jsonl")
    assert max(sizes) < 12
    assert sum(sizes) == len(lines(tmp_path / "x")) == 250


def test_csv_is_the_view_with_its_names(box: tuple[Path, Connection, Boot], tmp_path: Path) -> None:
    path, connection, _ = box
    exported(path, tmp_path / "x.csv", "csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        found = list(csv.reader(file))
    cursor = connection.execute("SELECT * FROM generations ORDER BY seq")
    assert found[0] == [column[0] for column in cursor.description]
    shown = [["" if value is None else str(value) for value in row] for row in cursor]
    assert found[1:] == shown


def test_parquet_lies_by_date_and_goes_on_without_doubles(
    box: tuple[Path, Connection, Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, connection, boot = box
    monkeypatch.setattr(parquet, "ROWS_PER_PART", 64)
    monkeypatch.setattr(pages, "RESULTS_PER_PAGE", 32)
    lake = tmp_path / "lake"
    exported(path, lake, "parquet", bodies=True)
    state = mark_beside(lake)
    marked = state.read_bytes()
    store(connection, boot, [chat(n, boot) for n in range(251, 300)])
    exported(path, lake, "parquet", resume=True)
    state.write_bytes(marked)  # a kill after the parts, before their mark
    store(connection, boot, [chat(n, boot) for n in range(300, 305)])
    (lake / "date=2025-10-09" / ".part-1.parquet.tmp").write_bytes(b"half")
    exported(path, lake, "parquet", resume=True)

    parts = sorted(lake.rglob("*.parquet*"))
    assert len(parts) > 4
    rows = [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]
    assert sorted(row["seq"] for row in rows) == list(range(1, 305))
    assert {part.parent.name for part in parts} == {f"date=2025-10-{d:02}" for d in (9, 10, 11, 12)}
    assert all(f"date={row['created_at']:%Y-%m-%d}" == "date=2025-10-09" for row in rows[:64])
    assert rows[0]["request_body"].startswith(b'{"model"')
    assert pq.ParquetFile(parts[0]).metadata.row_group(0).column(0).compression == "ZSTD"


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
ASKED = {
    "tools": TOOLS,
    "messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "你好"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
}


class Kinds:
    """One result of each kind that a chat export has to decide on."""

    given: ClassVar[dict[str, Json]] = {
        "tools": {"content": ASKED},
        "calls": {"outputs": {"output_text": "", "tool_calls": json.dumps([CALL])}},
        "cut": {"outputs": {"output_text": "a", "finish_reason": "length"}},
        "failed": {"status": Status.FAILED},
        "embedding": {"operation": Operation.EMBEDDINGS},
        "gone": {"content": None},
        "image": {"content": {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:x"}}]}]}},
        "empty": {"outputs": {"output_text": ""}},
        "odd": {"content": {"messages": [{"role": "king", "content": "x"}]}},
    }  # fmt: skip


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.db"
    connection, boot = new_database(path)
    for number, changes in enumerate(Kinds.given.values(), 1):
        found = dict(changes)
        if "outputs" in found:
            found["outputs"] = (Output(choice_index=0, **found["outputs"]),)
        if "content" in found:
            body = json.dumps(found["content"]).encode() if found["content"] else b""
            found["content"] = Content(input_text="x", request_body=body, response_body=b"")
        store(connection, boot, [chat(number, boot, **found)])
    connection.close()
    return path


def test_a_chat_to_train_on_has_its_tools_and_ends_with_the_answer(
    chats: Path, tmp_path: Path
) -> None:
    mark = exported(chats, tmp_path / "x", "openai")
    tools, calls, image = lines(tmp_path / "x")
    assert tools["tools"] == TOOLS
    assert [m["role"] for m in tools["messages"]] == (
        ["system", "user", "assistant", "tool", "assistant"]
    )
    assert tools["messages"][1]["content"] == "你好"
    assert tools["messages"][-1] == {"role": "assistant", "content": "a1"}
    assert calls["messages"][-1] == {"role": "assistant", "tool_calls": [CALL]}
    assert image["messages"][0]["content"][0]["type"] == "image_url"
    assert mark.skipped == {
        "its finish_reason is length": 1,
        "its status is failed": 1,
        "not a chat, but embeddings": 1,
        "its request is not stored": 1,
        "its answer is empty": 1,
        "a message has a role that is no chat's": 1,
    }


def test_sharegpt_names_who_spoke(chats: Path, tmp_path: Path) -> None:
    mark = exported(chats, tmp_path / "x", "sharegpt")
    tools, calls = lines(tmp_path / "x")
    assert [turn["from"] for turn in tools["conversations"]] == (
        ["system", "human", "function_call", "observation", "gpt"]
    )
    assert json.loads(tools["conversations"][2]["value"]) == {"name": "f", "arguments": {"a": 1}}
    assert json.loads(tools["tools"]) == [TOOLS[0]["function"]]
    assert calls["conversations"][-1]["from"] == "function_call"
    assert mark.skipped["a message has an image, audio or a file: ShareGPT holds texts"] == 1


def test_spans_have_the_times_of_then_and_ids_that_stay(
    box: tuple[Path, Connection, Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "PAUSE_S", 0.01)
    path, connection, boot = box
    trace = "0af7651916cd43dd8448eb211c80319c"
    failed = chat(251, boot, status=Status.FAILED, error_type="timeout", trace_id=trace)
    store(connection, boot, [failed])
    with receiver() as server:
        server.refusals = [503, 429]
        exported(path, server.url, "otlp", state=tmp_path / "s", headers={"x-key": "k"})
        assert [header["x-key"] for header in server.headers] == ["k"]
        first = server.spans
        again = exported(path, server.url, "otlp", state=tmp_path / "s2", bodies=True)
        second = server.spans[len(first) :]
        nothing = exported(path, server.url, "otlp", state=tmp_path / "s", resume=True)
    assert (again.rows, nothing.rows, len(server.spans)) == (251, 251, 502)
    ids = [(span["traceId"], span["spanId"]) for span in first]
    assert ids == [(span["traceId"], span["spanId"]) for span in second]
    assert len(set(ids)) == 251
    assert all(len(bytes.fromhex(a)) == 16 and len(bytes.fromhex(b)) == 8 for a, b in ids)
    assert first[0]["startTimeUnixNano"] == str(NOON * 1_000_000)
    named = {each["key"]: each["value"] for each in first[0]["attributes"]}
    assert named["gen_ai.usage.input_tokens"] == {"intValue": "3"}
    assert named["gen_ai.response.finish_reasons"] == (
        {"arrayValue": {"values": [{"stringValue": "stop"}]}}
    )
    assert (first[-1]["traceId"], first[-1]["status"]["code"]) == (trace, 2)
    names = connection.execute("SELECT * FROM v_otel").description
    shown = {name for (name, *_) in names if "." in name}
    told = {each["key"] for span in first for each in span["attributes"]} | {"host.name"}
    assert shown - told == {"gen_ai.conversation.id", "gen_ai.server.time_to_first_token"}
    texts = {each["key"]: each["value"] for each in second[0]["attributes"]}
    asked = json.loads(texts["gen_ai.input.messages"]["stringValue"])
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "q1"}]}]


def test_an_endpoint_that_refuses_ends_the_export_at_its_mark(
    box: tuple[Path, Connection, Boot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "RESULTS_PER_PAGE", 100)
    with receiver() as server:
        server.refusals = [200, 200, 401]
        with pytest.raises(ExportFailed, match="401"):
            exported(box[0], server.url, "otlp", state=tmp_path / "s")
        mark = read_mark(tmp_path / "s")
        assert mark is not None
        assert mark.seq == 200
        exported(box[0], server.url, "otlp", state=tmp_path / "s", resume=True)
        assert len(server.spans) == 250


def test_spans_that_the_endpoint_drops_are_counted(
    box: tuple[Path, Connection, Boot], tmp_path: Path
) -> None:
    with receiver() as server:
        server.answer = b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}'
        mark = exported(box[0], server.url, "otlp", state=tmp_path / "s")
    assert (mark.rows, mark.skipped) == (247, {"refused: too old": 3})
