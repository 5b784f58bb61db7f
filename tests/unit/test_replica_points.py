"""Which states a listing of LTX files gives, and which files lead to one."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from edge_store.errors import DiskFull, ReplicaNotFound, RestoreFailed
from edge_store.ids import DeviceId
from edge_store.replica.download import Download, lay_out
from edge_store.replica.location import parse_location
from edge_store.replica.points import (
    LtxFile,
    Points,
    Txid,
    chain,
    chain_onwards,
    choose,
    counterpart,
    list_files,
    read_points,
)
from edge_store.replica.rebuild import require_space
from edge_store.replica.scratch import Scratch, scratch_for

START = datetime(2026, 1, 31, 8, tzinfo=UTC)


def file(level: int, first: int, last: int, at_s: float | None = None) -> LtxFile:
    """Written as many seconds after the start as its last TXID, or ``at_s``."""
    moment = START + timedelta(seconds=last if at_s is None else at_s)
    return LtxFile(
        key=f"{level}/{first}-{last}",
        level=level,
        first=first,
        last=last,
        size=100,
        written_at=round(moment.timestamp() * 1000),
    )


def sized(one: LtxFile, size: int) -> LtxFile:
    return msgspec.structs.replace(one, size=size)


def points_of(*files: LtxFile) -> Points:
    return read_points(files, "the replica")


# a snapshot at 40; level 1 on boundaries of 30; level 0 from 61 on
AGED = (
    file(9, 1, 40, 41),
    file(1, 1, 30, 31),
    file(1, 31, 60, 61),
    *(file(0, each, each) for each in range(61, 66)),
)


def test_states_are_those_that_files_lead_to_without_a_gap() -> None:
    assert [point.txid for point in points_of(*AGED).points] == [30, 40, 60, 61, 62, 63, 64, 65]


def test_state_is_as_old_as_the_first_file_that_ends_there() -> None:
    (point,) = points_of(file(0, 1, 1, 5), file(9, 1, 1, 90)).points
    assert point.at == round((START + timedelta(seconds=5)).timestamp() * 1000)


def test_granularity_is_told_as_it_is() -> None:
    told = points_of(*AGED).told
    assert "8 states from TXID 000000000000001e of 2026-01-31T08:00:31.000Z" in told
    assert (
        "one for each merge of them, and for each replica sync from TXID 000000000000003d" in told
    )


@pytest.mark.parametrize(
    ("since", "keys"),
    [
        (64, ["0/65-65"]),
        (40, ["1/31-60", *(f"0/{each}-{each}" for each in range(61, 66))]),
        (65, []),
        (0, ["1/1-30", "1/31-60", *(f"0/{each}-{each}" for each in range(61, 66))]),
    ],
)
def test_files_lead_on_from_a_state_without_a_snapshot(since: int, keys: list[str]) -> None:
    onwards = chain_onwards(AGED, Txid(since), points_of(*AGED).newest)
    assert onwards is not None
    assert [each.key for each in onwards] == keys


def test_nothing_leads_on_over_a_gap_or_from_beyond_the_end() -> None:
    newest = points_of(*AGED).newest
    gap = [each for each in AGED if each.key != "0/63-63"]
    assert chain_onwards(gap, Txid(61), newest) is None
    assert chain_onwards(AGED, Txid(66), newest) is None


def test_newest_state_leads_over_the_newest_snapshot_and_the_longest_files() -> None:
    chosen = chain(AGED, points_of(*AGED).newest)
    assert [each.key for each in chosen] == [
        "9/1-40",
        "1/31-60",
        *(f"0/{n}-{n}" for n in range(61, 66)),
    ]


def test_state_is_made_without_the_snapshots_that_are_passed_over() -> None:
    point = choose(points_of(*AGED), Txid(60))
    assert [each.key for each in chain(AGED, point, without=[40])] == ["1/1-30", "1/31-60"]
    with pytest.raises(RestoreFailed, match="only be made of a snapshot that does not hold"):
        chain(AGED, choose(points_of(*AGED), Txid(40)), without=[40])


def test_snapshot_is_compared_with_the_smallest_other_file_that_ends_there() -> None:
    others = (sized(file(1, 1, 40), 300), sized(file(0, 40, 40), 90))
    files = (file(9, 1, 40), file(0, 39, 39), *others)
    assert counterpart(files, [files[0]]) == others[1]
    assert counterpart(files, [files[0], file(0, 41, 41)]) is None
    assert counterpart([files[0]], [files[0]]) is None


def test_snapshot_is_not_compared_where_that_would_cost_a_second_download() -> None:
    snapshot, other = sized(file(9, 1, 40), 8 << 20), sized(file(0, 40, 40), 3 << 20)
    assert counterpart([snapshot, other], [snapshot]) is None
    assert counterpart([snapshot, sized(other, 2 << 20)], [snapshot]) is not None


def test_time_gives_the_last_state_that_was_there_by_then() -> None:
    points = points_of(*AGED)
    assert choose(points, START + timedelta(seconds=62.5)).txid == 62
    assert choose(points, START + timedelta(seconds=59)).txid == 40
    assert choose(points, START + timedelta(days=1)).txid == 65


def test_time_before_the_oldest_state_is_refused_with_the_range() -> None:
    with pytest.raises(ReplicaNotFound, match=r"08:00:30\.000Z or before: it can give 8 states"):
        choose(points_of(*AGED), START + timedelta(seconds=30))


def test_txid_between_two_states_is_refused_and_the_nearest_are_named() -> None:
    assert choose(points_of(*AGED), Txid(60)).txid == 60
    with pytest.raises(ReplicaNotFound) as caught:
        choose(points_of(*AGED), Txid(50))
    assert "TXID 0000000000000028 of" in str(caught.value.hint)
    assert "TXID 000000000000003c of" in str(caught.value.hint)


def test_missing_file_stops_the_newest_state_but_not_those_before_it() -> None:
    points = points_of(*(each for each in AGED if each.last != 63))
    with pytest.raises(RestoreFailed, match="lacks files from TXID 000000000000003f on"):
        choose(points, None)
    assert choose(points, Txid(62)).txid == 62
    assert choose(points, START + timedelta(seconds=63)).txid == 62
    with pytest.raises(RestoreFailed, match="lacks files from TXID 000000000000003f on"):
        choose(points, START + timedelta(seconds=64))


def test_replica_without_its_first_snapshot_gives_nothing() -> None:
    with pytest.raises(ReplicaNotFound, match="lacks its first snapshot"):
        points_of(file(0, 5, 5))


@pytest.mark.parametrize("seed", range(50))
def test_files_to_every_state_follow_each_other(seed: int) -> None:
    draw = random.Random(seed)
    files = [file(0, each, each) for each in range(1, 40) if draw.random() < 0.7]
    for level, length in ((1, 5), (2, 15)):
        starts = range(1, 40, length)
        files += [file(level, n, n + length - 1) for n in starts if draw.random() < 0.8]
    files += [file(9, 1, draw.randrange(1, 40)), file(9, 1, draw.randrange(1, 40))]
    points = points_of(*files).points
    reachable = {0}
    for each in sorted(files, key=lambda one: one.last):
        if any(each.first - 1 <= reached < each.last for reached in reachable):
            reachable.add(each.last)
    assert {point.txid for point in points} == reachable - {0}
    for point in points:
        reached = 0
        for each in chain(files, point):
            assert each.first <= reached + 1
            assert each.last > reached
            reached = each.last
        assert reached == point.txid


def test_restore_that_does_not_fit_says_how_much_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"MB are missing"):
        require_space(tmp_path / "scratch", 1 << 60, 1 << 30)


def test_download_is_used_again_only_if_the_store_has_the_same_version(tmp_path: Path) -> None:
    scratch, location = Scratch(tmp_path), parse_location("s3://edge/fleet")
    listed = msgspec.structs.replace(file(0, 1, 1), version="a")
    assert scratch.place(location, listed) == scratch.place(location, listed)
    others = (
        msgspec.structs.replace(listed, version="b"),
        msgspec.structs.replace(listed, written_at=listed.written_at + 1),
        msgspec.structs.replace(listed, size=101),
    )
    places = {scratch.place(location, each) for each in (listed, *others)}
    places.add(scratch.place(parse_location("s3://other/fleet"), listed))
    assert len(places) == 5


def test_files_of_a_folder_on_another_disk_are_copied_and_stay(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with TemporaryDirectory(dir=shared) as name:
        name_of_file = "0000000000000001-0000000000000001.ltx"
        there = Path(name, "box-a", "results.db", "ltx", "0", name_of_file)
        there.parent.mkdir(parents=True)
        there.write_bytes(b"content")
        location = parse_location(f"file://{name}")
        files = asyncio.run(list_files(location, None, DeviceId("box-a")))
        with scratch_for(tmp_path / "copy.db") as scratch:
            download = Download(location, None, scratch, lambda _bytes: None)
            lay_out(files, download, tmp_path / "replica")
        assert (tmp_path / "replica" / "ltx" / "0" / name_of_file).read_bytes() == b"content"
        assert there.read_bytes() == b"content"
