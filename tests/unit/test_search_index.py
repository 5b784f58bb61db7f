"""The index follows what is stored and what is deleted, and is made anew where it does not fit."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.searching import Searched

from edge_store.errors import StoreError
from edge_store.ids import new_result_id
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.recorder.disk import SEARCH_INDEX
from edge_store.result import Operation, Output
from edge_store.search import index as index_module
from edge_store.search import shards as shards_module
from edge_store.search.cleaning import clean
from edge_store.search.file import (
    IndexBroken,
    drop_index,
    index_bytes,
    index_path,
    open_index,
    position_of,
)
from edge_store.search.index import AUTOMERGE, catch_up, step
from edge_store.sqlite import driver, open_reader

RARE = "zyzzyvaqq"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Searched]:
    searched = Searched(tmp_path)
    yield searched
    searched.close()


def holds_bytes(path: Path, text: bytes) -> bool:
    """Whether any of the index's files has them."""
    files = (path.with_name(path.name + end) for end in ("", "-wal"))
    return any(text in file.read_bytes() for file in files if file.exists())


@pytest.mark.parametrize("reason", Reason)
def test_what_is_deleted_is_neither_found_nor_left_in_the_file(
    box: Searched, reason: Reason
) -> None:
    for n in range(40):
        box.add(f"number{n}", "an ordinary answer")
    gone = box.add(RARE, "an answer")
    box.follow()
    box.index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert box.found(RARE) == [gone]
    assert holds_bytes(box.index_path, RARE.encode())
    delete_results(box.writer, [gone], reason)
    box.follow()
    assert box.found(RARE) == []
    assert not holds_bytes(box.index_path, RARE.encode())
    assert not holds_bytes(box.index_path, RARE[1:4].encode()), "nor are its trigrams"
    assert len(box.found("ordinary", limit=50)) == 40


def test_of_a_result_without_its_prompt_the_answer_is_found(box: Searched) -> None:
    seq = box.add(RARE, "the answer stays")
    box.follow()
    delete_results(box.writer, [seq], Reason.RETENTION, What.CONTENT)
    box.follow()
    assert box.found(RARE) == []
    assert box.found("answer stays") == [seq]


def test_a_deletion_before_it_was_taken_in_leaves_nothing(box: Searched) -> None:
    gone, stays = box.add(RARE), box.add("toner")
    delete_results(box.writer, [gone], Reason.FORGET)
    box.follow()
    assert box.found(RARE) == []
    assert box.found("toner") == [stays]
    last = box.add(RARE)
    delete_results(box.writer, [last], Reason.FORGET)
    box.follow()
    assert position_of(box.index).seq == last, "it is past what is gone"


def test_a_restored_box_has_its_index_made_anew(box: Searched) -> None:
    old = box.add("toner")
    box.follow()
    box.writer.execute(
        "INSERT INTO timelines (timeline, started_at, reason) VALUES (?, 1, 'restored')",
        (new_result_id(),),
    )
    assert not box.ask("toner").has_index, "an index of another timeline is none"
    with pytest.raises(IndexBroken):
        step(box.index, box.reader, box.newest)
    box.reopen()
    assert position_of(box.index).seq == 0
    box.follow()
    assert box.found("toner") == [old]


def test_an_older_copy_in_the_databases_place_is_noticed(box: Searched, tmp_path: Path) -> None:
    box.add("toner")
    box.follow()
    copy = Searched(tmp_path_of(tmp_path, "copy"))
    copy.writer.execute("DELETE FROM timelines")
    for row in box.reader.execute("SELECT * FROM timelines"):
        copy.writer.execute("INSERT INTO timelines VALUES (?, ?, ?, ?)", row)
    copy.add("another result with the same seq")
    with closing(open_index(box.index_path, copy.reader)) as opened:
        assert position_of(opened).seq == 0
    copy.close()


def tmp_path_of(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize(
    "damage", [b"not a database at all" * 100, b"", b"SQLite format 3\0" + b"\xff" * 4080]
)
def test_a_damaged_index_is_made_anew(box: Searched, damage: bytes) -> None:
    seq = box.add("toner")
    box.follow()
    box.index.close()
    drop_index(box.index_path)
    box.index_path.write_bytes(damage)
    assert not box.ask("toner").has_index
    assert [each.seq for each in box.ask("toner").found] == [seq]
    box.index = open_index(box.index_path, box.reader)
    box.follow()
    assert box.found("toner") == [seq]


def test_an_index_with_torn_pages_is_passed_over_and_made_anew(box: Searched) -> None:
    for n in range(30):
        box.add(f"toner {n}", "some text " * 20)
    box.follow()
    box.index.close()  # the last to close leaves no WAL
    with box.index_path.open("r+b") as file:
        file.seek(4096)  # the first page names the tables
        file.write(b"\xa5" * (box.index_path.stat().st_size - 4096))
    answer = box.ask("toner", limit=10)
    assert len(answer.found) == 10, "the texts are read through instead"
    assert not answer.has_index
    box.index = open_index(box.index_path, box.reader)
    assert position_of(box.index).seq == 0
    box.follow()
    assert len(box.found("toner", limit=50)) == 30


def test_an_index_that_sqlite_only_reads_is_made_anew(box: Searched) -> None:
    """Its header asks of who writes it what this SQLite does not know."""
    seq = box.add("toner")
    box.follow()
    box.index.close()
    with box.index_path.open("r+b") as file:
        file.seek(18)  # sqlite.org/fileformat2.html: "File format version numbers"
        file.write(b"\x03")
    box.index = open_index(box.index_path, box.reader)
    box.follow()
    assert box.found("toner") == [seq]


def test_a_text_that_is_not_utf8_holds_up_no_other(box: Searched) -> None:
    damaged = box.add("toner is empty")
    box.writer.execute(
        "UPDATE requests SET input_text = CAST(x'746f6e657220ff20656d707479' AS TEXT)"
    )
    last = box.add("toner")
    box.follow()
    assert box.found("toner", is_newest=True) == [last, damaged]
    assert box.found("empty") == [damaged]


def test_an_index_that_goes_while_it_is_measured_has_no_bytes(tmp_path: Path) -> None:
    assert index_bytes(tmp_path / "search.db") == 0


def test_an_index_that_cannot_be_deleted_is_told(tmp_path: Path) -> None:
    (tmp_path / "search.db").mkdir()
    with pytest.raises(StoreError, match=r"search\.db cannot be deleted: Is a directory"):
        drop_index(tmp_path / "search.db")


def test_damage_that_is_met_later_is_told(box: Searched) -> None:
    box.add("toner")
    box.follow()
    box.index.execute("DROP TABLE words_of_0_data")
    answer = box.ask("toner")
    assert ([each.seq for each in answer.found], answer.has_index) == ([1], False)
    box.add("more toner")
    with pytest.raises(IndexBroken):
        step(box.index, box.reader, box.newest)


def test_an_index_of_other_words_is_made_anew(
    box: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.add("toner")
    box.follow()
    box.index.execute("UPDATE state SET form = form + 1")
    box.reopen()
    assert position_of(box.index).seq == 0


def test_another_applications_file_is_not_read(box: Searched) -> None:
    box.index.close()
    drop_index(box.index_path)
    with closing(driver.connect(str(box.index_path))) as other:
        other.execute("CREATE TABLE state (a)")
    assert not box.ask("toner").has_index
    box.index = open_index(box.index_path, box.reader)
    assert position_of(box.index).seq == 0


def test_a_low_disk_drops_just_the_files_of_the_index(box: Searched) -> None:
    path = index_path(box.path)
    assert [path.with_name(name) for name in SEARCH_INDEX] == [
        path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"),
    ]  # fmt: skip


def test_shards_follow_each_other_and_go_when_they_are_empty(
    box: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SHARD_ROWS", 8)
    monkeypatch.setattr(index_module, "ROWS_MAX", 5)
    for n in range(30):
        box.add(f"toner number{n}")
    box.follow()
    assert box.found("toner", is_newest=True, limit=50) == list(range(30, 0, -1))
    assert box.found("number3")[0] == 4
    delete_results(box.writer, range(1, 20), Reason.RETENTION)
    while step(box.index, box.reader, box.newest).is_more:
        pass
    while clean(box.index, box.reader, expired=False):
        pass
    shards = [shard for (shard,) in box.index.execute("SELECT shard FROM shards ORDER BY 1")]
    assert shards == [2, 3]
    assert box.found("toner", is_newest=True, limit=50) == list(range(30, 19, -1))


def test_what_asked_for_no_output_is_not_found(box: Searched) -> None:
    box.add("toner", operation=Operation.PREFIX_CACHE)
    box.follow()
    assert box.found("toner") == []


def test_every_choice_is_found_and_reasoning_and_tool_calls(box: Searched) -> None:
    seq = box.add(
        "",
        outputs=(
            Output(choice_index=0, output_text="first", reasoning="because"),
            Output(choice_index=1, output_text="second", tool_calls='[{"name": "look_up"}]'),
        ),
    )
    box.follow()
    for text in ("first", "second", "because", "look_up"):
        assert box.found(text) == [seq]


def test_a_copys_index_goes_on_from_where_it_is(box: Searched, tmp_path: Path) -> None:
    box.add("toner")
    index = tmp_path / "copy.search.db"
    said: list[tuple[int, int]] = []
    with closing(open_reader(box.path)) as reader:
        catch_up(index, reader, lambda at, of: said.append((at, of))).close()
        box.add("more toner")
        made_at = index.stat().st_ino
        catch_up(index, reader, lambda at, of: said.append((at, of))).close()
    assert index.stat().st_ino == made_at
    assert said[-1] == (2, 2)
    assert index_bytes(index) > 0


def test_a_cut_at_any_commit_goes_on(
    box: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a SIGKILL leaves is a file with its WAL, as they are after some COMMIT."""
    monkeypatch.setattr(index_module, "ROWS_MAX", 3)
    for n in range(9):
        box.add(f"toner{n}")
    for n in range(3):
        step(box.index, box.reader, box.newest)
        folder = tmp_path_of(tmp_path, f"cut{n}")
        for end in ("", "-wal"):
            shutil.copy(f"{box.index_path}{end}", folder / f"search.db{end}")
        with closing(open_index(folder / "search.db", box.reader)) as cut:
            assert position_of(cut).seq == 3 * (n + 1)
            while step(cut, box.reader, box.newest).is_more:
                pass
            found = cut.execute("SELECT count(*) FROM words_of_0('toner*')").fetchone()
            assert found == (9,)


def test_cleaning_ends_while_more_is_taken_in(box: Searched) -> None:
    for n in range(60):
        box.add(f"toner{n}", RARE)
    box.follow()
    delete_results(box.writer, range(1, 40), Reason.FORGET)
    rounds = 0
    step(box.index, box.reader, box.newest)
    while clean(box.index, box.reader, pages=2):
        box.add("more")
        step(box.index, box.reader, box.newest)
        rounds += 1
        assert rounds < 500
    assert rounds


def test_a_database_that_cannot_be_read_is_no_broken_index(box: Searched) -> None:
    box.add("toner")
    box.reader.close()
    with pytest.raises((StoreError, driver.ProgrammingError)) as raised:
        step(box.index, box.reader, box.newest)
    assert not isinstance(raised.value, IndexBroken)
    box.reader = open_reader(box.path)


@pytest.mark.parametrize("reason", Reason)
def test_a_deletion_merges_nothing_by_itself(box: Searched, reason: Reason) -> None:
    for n in range(200):
        box.add(f"toner{n} and some more words {n * 7919}", "an ordinary answer")
        if n % 3 == 0:
            box.follow()  # as many pieces, some of which are due to be merged
    box.follow()

    def pages() -> dict[int, bytes]:
        return dict(box.index.execute("SELECT id, block FROM words_of_0_data WHERE id > 10"))

    before = pages()
    delete_results(box.writer, range(1, 100), reason)
    while step(box.index, box.reader, box.newest).is_more:
        pass
    assert before.items() <= pages().items(), "only pages of tombstones came"
    assert box.found("toner7*", limit=50) == []
    asked = "SELECT v FROM words_of_0_config WHERE k = 'automerge'"
    assert box.index.execute(asked).fetchone() == (AUTOMERGE,), "what comes is merged as ever"


def test_what_retention_deletes_waits_and_what_is_forgotten_does_not(box: Searched) -> None:
    words = [hashlib.sha256(b"%d" % n).hexdigest()[:20] for n in range(60)]
    for word in words:
        box.add(word, RARE)
    box.follow()
    delete_results(box.writer, range(1, 20), Reason.RETENTION)
    step(box.index, box.reader, box.newest)
    assert not clean(box.index, box.reader, expired=False)
    delete_results(box.writer, range(20, 40), Reason.FORGET)
    step(box.index, box.reader, box.newest)
    assert clean(box.index, box.reader, pages=1, expired=False)
    delete_results(box.writer, range(40, 50), Reason.FORGET)  # while it is merged
    step(box.index, box.reader, box.newest)
    while clean(box.index, box.reader, expired=False):
        pass
    box.index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    left = [holds_bytes(box.index_path, word[6:].encode()) for word in words]
    assert left == [False] * 49 + [True] * 11
    assert box.index.execute("SELECT is_unclean FROM shards").fetchall() == [(0,)]
