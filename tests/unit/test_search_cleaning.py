"""The words of deleted results leave search.db whatever is done to it meanwhile."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.searching import Searched

from edge_store.recorder.deletions import Reason, delete_results
from edge_store.search import shards
from edge_store.search.cleaning import clean, empty, mark_left
from edge_store.search.file import IndexBroken
from edge_store.search.index import step
from edge_store.search.pieces import Pieces, pieces_in, pieces_of
from edge_store.sqlite import driver

STEPS_MAX = 2000


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Searched]:
    searched = Searched(tmp_path)
    yield searched
    searched.close()


def word(n: int, of: str = "") -> str:
    return hashlib.sha256(f"{of}{n}".encode()).hexdigest()[:24]


def fill(box: Searched, count: int) -> None:
    """Results 1 to ``count``, the n-th with ``word(n)`` and no other with it, in a few pieces."""
    for n in range(1, count + 1):
        box.add(word(n), " ".join(word(each, f"of {n}: ") for each in range(40)))
        if n % (count // 3) == 0:
            take_in(box)


def take_in(box: Searched) -> None:
    while step(box.index, box.reader, box.newest).is_more:
        pass


def left_of(box: Searched, seqs: range) -> list[int]:
    """Those whose word is in the index or its WAL. Of a word FTS5 stores what it does not share
    with the one before.
    """
    files = (box.index_path, box.index_path.with_name(f"{box.index_path.name}-wal"))
    found = b"".join(file.read_bytes() for file in files if file.exists())
    return [seq for seq in seqs if word(seq)[4:].encode() in found]


def tables(box: Searched) -> list[Pieces]:
    return [pieces_in(box.index, f"structure_of_{name}", 0) for name in ("words", "trigrams")]


def merge(box: Searched, pages: int, *names: str) -> None:
    for name in names:
        box.index.execute(f"INSERT INTO {name}_of_0 ({name}_of_0, rank) VALUES ('merge', {pages})")


def state(box: Searched) -> list[tuple[int]]:
    return list(box.index.execute("SELECT is_unclean FROM shards"))


@pytest.mark.parametrize("is_one", [True, False], ids=["of one piece", "of three"])
@pytest.mark.parametrize("each", range(1, 5))
def test_what_is_forgotten_is_merged_away_while_results_come(
    box: Searched,
    each: int,
    is_one: bool,  # noqa: FBT001
) -> None:
    """``each``: so many steps of merging for one result, so that its piece is in the way at any
    moment. ``is_one``: as an earlier cleaning left it; one result's piece is in its way.
    """
    fill(box, 90)
    if is_one:
        merge(box, -1000, "words", "trigrams")
    box.follow()
    gone = range(20, 40)
    assert left_of(box, gone) == list(gone), "they are found so, or this test proves nothing"
    delete_results(box.writer, gone, Reason.FORGET)
    take_in(box)
    steps = 0
    while clean(box.index, box.reader, pages=1):
        steps += 1
        assert steps < STEPS_MAX
        if steps % each == 0:
            box.add("more", "and more")
            take_in(box)
    assert empty(box.index)
    assert steps > 2 * each, "results have come meanwhile"
    assert left_of(box, gone) == []
    assert left_of(box, range(40, 91)) == list(range(40, 91)), "and nothing else is gone"
    assert state(box) == [(0,)]
    assert [found.tombstones for found in tables(box)] == [0, 0]


@pytest.mark.parametrize("names", [("words",), ("trigrams",), ("words", "trigrams")], ids="-".join)
@pytest.mark.parametrize("reason", Reason)
def test_what_an_earlier_merge_has_written_is_merged_again(
    box: Searched, names: tuple[str, ...], reason: Reason
) -> None:
    fill(box, 90)
    merge(box, -1, *names)
    for _ in range(8):  # its output has many of them
        merge(box, 1, *names)
    under_way = dict(zip(("words", "trigrams"), tables(box), strict=True))
    assert all(under_way[name].is_one_merge for name in names)
    gone = range(1, 91, 3)
    delete_results(box.writer, gone, reason)
    take_in(box)
    while clean(box.index, box.reader, pages=2):
        pass
    assert empty(box.index)
    assert [seq for seq in left_of(box, range(1, 91)) if seq in gone] == []
    assert [found.tombstones for found in tables(box)] == [0, 0]


def test_deletions_that_never_stop_do_not_hold_up_an_earlier_one(box: Searched) -> None:
    fill(box, 120)
    box.follow()
    delete_results(box.writer, range(1, 11), Reason.FORGET)
    take_in(box)
    seq = 11
    while clean(box.index, box.reader, pages=1, expired=False):
        delete_results(box.writer, [seq], Reason.RETENTION)
        take_in(box)
        seq += 1
        assert seq < 120, "it ends"
    assert empty(box.index)
    assert left_of(box, range(1, 11)) == []
    assert state(box) == [(shards.EXPIRED,)]


def test_of_what_is_forgotten_and_not_due_nothing_is_begun(box: Searched) -> None:
    fill(box, 30)
    box.follow()
    delete_results(box.writer, [7], Reason.FORGET)
    take_in(box)
    assert not clean(box.index, box.reader, forgotten=False)
    assert state(box) == [(shards.FORGOTTEN,)]
    assert clean(box.index, box.reader)


def test_what_an_earlier_release_left_is_found_and_merged_away(box: Searched) -> None:
    fill(box, 30)
    box.follow()
    delete_results(box.writer, [7], Reason.FORGET)
    take_in(box)
    box.index.execute("UPDATE shards SET is_unclean = 0")
    assert not clean(box.index, box.reader)
    mark_left(box.index)
    box.follow()
    assert left_of(box, range(7, 8)) == []
    mark_left(box.index)
    assert state(box) == [(0,)]


def test_a_reader_in_the_way_of_the_wal_is_told(box: Searched) -> None:
    fill(box, 30)
    box.follow()
    delete_results(box.writer, [7], Reason.FORGET)
    with closing(driver.connect(box.index_path, isolation_level=None)) as reader:
        box.index.execute("UPDATE state SET only = only")  # so that it reads from the WAL
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        take_in(box)
        while clean(box.index, box.reader):
            pass
        assert not empty(box.index)
        assert left_of(box, range(7, 8)) == [7]
    assert empty(box.index)
    assert left_of(box, range(7, 8)) == []


def test_a_shard_with_nothing_left_is_taken_down_in_steps(
    box: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    fill(box, 90)
    box.follow()
    delete_results(box.writer, range(1, 80), Reason.RETENTION)
    take_in(box)
    steps = 0
    while clean(box.index, box.reader, pages=1, expired=False):
        steps += 1
        assert box.found(word(80)) == [80], "by the index, which has no hole"
        assert box.found(word(1)) == []
        if steps == 3:
            box.reopen()
            assert state(box) == [(shards.GOING,), (shards.EXPIRED,)]
    assert steps > 10
    assert [shard for (shard,) in box.index.execute("SELECT shard FROM shards")] == [1]
    tables_left = box.index.execute("SELECT name FROM sqlite_schema WHERE name LIKE '%of_0%'")
    assert tables_left.fetchall() == []


def test_a_shard_that_is_soiled_all_the_time_does_not_hold_up_the_others(
    box: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    fill(box, 150)
    box.follow()
    delete_results(box.writer, [10], Reason.FORGET)
    seq, steps = 150, 0
    while (cleaning := state(box)[0][0]) or not steps:
        delete_results(box.writer, [seq], Reason.FORGET)
        seq = box.add("more", "and more")
        take_in(box)
        assert clean(box.index, box.reader)
        steps += 1
        assert steps < STEPS_MAX, cleaning
    while clean(box.index, box.reader):
        pass
    empty(box.index)
    assert left_of(box, range(10, 11)) == []


def test_hundreds_of_cleanings_leave_a_sound_index(box: Searched) -> None:
    """FTS5 adds levels with each, up to 65."""
    for n in range(1, 101):
        box.add(word(n))
        if n > 1:
            delete_results(box.writer, [n - 1], Reason.FORGET)
        box.follow()
    for name in ("words", "trigrams"):
        box.index.execute(f"INSERT INTO {name}_of_0 ({name}_of_0) VALUES ('integrity-check')")
    assert left_of(box, range(1, 101)) == [100]
    assert box.found(word(100)) == [100]


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: b"",
        lambda record: record[:4] + b"\xff\x00\x00\x02" + record[8:],
        lambda record: record[:-1],
        lambda record: record[:8] + b"\xff" * 9 + record[9:],
    ],
    ids=["empty", "another form", "cut", "too many levels"],
)
def test_a_record_that_is_not_understood_is_a_broken_index(
    box: Searched, damage: "type[bytes]"
) -> None:
    fill(box, 9)
    record = tables(box)[0].record
    assert pieces_of(record).record == record
    with pytest.raises(IndexBroken):
        pieces_of(damage(record))
