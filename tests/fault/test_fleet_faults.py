"""Pulls and work on a lake that are killed, and files of replicas with flipped bits."""

import errno
import os
import random
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.fleet_faults import flip_bits, kill_pulls
from support.fleet_pulls import Copies
from support.lake_faults import kill_lake_work

from edge_store.fleet import advance
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.sqlite import Connection, open_copy

KILLS = 30
LAKE_KILLS = 4
FLIPS, FLIPS_BESIDE = 12, 4  # a sample; scripts/fleet-faults flips a thousand


async def test_pull_that_is_killed_at_any_step_is_harmless_and_resumes(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    tally = await kill_pulls(tmp_path, KILLS, seed)
    assert tally["killed"] == KILLS, seed
    assert tally["looks"], "a reader must have looked, or this proves nothing of it"


def test_work_on_a_lake_that_is_killed_is_done_by_the_next(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    assert kill_lake_work(tmp_path, LAKE_KILLS, seed).total() == LAKE_KILLS, seed


async def test_flipped_bit_leaves_the_older_copy_and_says_so(tmp_path: Path) -> None:
    tally = await flip_bits(tmp_path, FLIPS, random.randrange(2**32))
    assert tally.total() == FLIPS
    assert tally["restore_failed"], tally


async def test_flipped_bit_beside_another_way_costs_only_a_restore(tmp_path: Path) -> None:
    tally = await flip_bits(tmp_path, FLIPS_BESIDE, random.randrange(2**32), merged=True)
    assert tally["restored"], tally


async def test_result_whose_content_goes_first_is_held_by_the_copy_from_before(
    tmp_path: Path,
) -> None:
    stored = tmp_path / "replicas"
    stored.mkdir()
    with Fleet(tmp_path, f"file://{stored}", stored, 1) as fleet:
        box = fleet.add("box-0")
        box.live(5, fleet.chances)
        await fleet.replicate()
        copies = Copies(fleet, tmp_path / "copies")
        await copies.pull()
        with_content = "SELECT seq, id FROM requests JOIN results USING (seq)"
        seq, name = box.connection.execute(with_content).fetchone()
        row = copies.seen["box-0"][name]
        for what in (What.CONTENT, What.RESULT):
            delete_results(box.connection, [seq], Reason.RETENTION, what)
            await fleet.replicate()
            await copies.pull()
            assert copies.seen["box-0"][name] == row
        (older,) = copies.into.glob("box-0.*.db")
        older.unlink()
        with pytest.raises(AssertionError, match=f"{name} of box-0 has vanished"):
            copies.look(box)


@pytest.mark.parametrize("is_shared", [True, False])
async def test_only_what_was_just_copied_is_read_through_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_shared: bool
) -> None:
    """A bad sector under a map is SIGBUS, and no error of a read."""

    def cloned(to: int, request: int, of: int) -> int:
        assert request == advance.FICLONE
        if not is_shared:
            raise OSError(errno.EOPNOTSUPP, "as ext4 says")
        return os.sendfile(to, of, 0, os.fstat(of).st_size)  # as xfs and btrfs, but for the blocks

    mapped: list[int] = []

    def opened(path: Path, *, mapped_bytes: int) -> Connection:
        connection = open_copy(path, mapped_bytes=mapped_bytes)
        mapped.extend(connection.execute("PRAGMA mmap_size").fetchone())
        return connection

    monkeypatch.setattr("edge_store.fleet.advance.fcntl.ioctl", cloned)
    monkeypatch.setattr(advance, "open_copy", opened)
    stored = tmp_path / "replicas"
    stored.mkdir()
    with Fleet(tmp_path, f"file://{stored}", stored, 1) as fleet:
        box = fleet.add("box-0")
        copies = Copies(fleet, tmp_path / "copies")
        for _ in range(2):
            box.live(5, fleet.chances)
            await fleet.replicate()
            await copies.pull()
    assert mapped == [0 if is_shared else advance.MAPPED_BYTES]
