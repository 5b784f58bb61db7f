"""A centre tells by a head what became of its box."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from support.replicating import Database

from edge_store.cli.fleet import fleet
from edge_store.fleet.heads import Copy, HeadState, Seen, judge_head, read_copy
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head, read_head

NOW = 1_800_000_000_000
MINUTE, DAY = 60_000, 86_400_000


@pytest.fixture
def told(tmp_path: Path) -> tuple[Head, Path]:
    """The head of a box at its third result, and its file, which has two more."""
    path = tmp_path / "results.db"
    database = Database(path, "box-1")
    database.write(3)
    head, _ = read_head(database.connection, database.boot, 4, 3)
    database.write(2)
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return head, path


def judged(
    head: Head | None, age_ms: int, copy: Copy | None = None, **options: float
) -> tuple[HeadState, str]:
    seen = Seen(device_id=DeviceId("box-1"), pulse_at=NOW - age_ms, head=head)
    found = judge_head(seen, NOW, copy, **options)
    return found.state, found.message


def test_the_pulse_alone_tells_alive_late_and_dead(told: tuple[Head, Path]) -> None:
    head, _ = told
    assert judged(head, 2 * MINUTE) == (HeadState.ALIVE, "a sign 2 min ago")
    assert judged(head, -MINUTE) == (HeadState.ALIVE, "a sign 0 s ago"), "the clocks differ"
    assert judged(head, 20 * MINUTE)[0] is HeadState.LATE
    assert judged(head, 3 * DAY) == (HeadState.DEAD, "no sign for 3 d")
    assert judged(head, 3 * DAY, dead_after_s=7 * 86_400)[0] is HeadState.LATE
    assert judged(None, 0)[0] is HeadState.UNREADABLE


def test_a_box_whose_results_are_all_here_is_idle(told: tuple[Head, Path]) -> None:
    head, path = told
    copy = read_copy(path, head)
    assert judged(head, MINUTE, copy)[0] is HeadState.IDLE
    further = msgspec.structs.replace(head, seq=9)
    state, message = judged(further, MINUTE, read_copy(path, further))
    assert (state, "seq 5" in message) == (HeadState.ALIVE, True)


def test_a_copy_that_is_not_what_the_head_names_is_tampered(told: tuple[Head, Path]) -> None:
    head, path = told
    other = msgspec.structs.replace(head, digest="00" * 32)
    for age_ms in (MINUTE, 3 * DAY):
        state, message = judged(other, age_ms, read_copy(path, other))
        assert state is HeadState.TAMPERED
        assert f"seq {head.seq}" in message
    elsewhere = msgspec.structs.replace(other, timeline="another")
    state, message = judged(elsewhere, MINUTE, read_copy(path, elsewhere))
    assert (state, "timeline" in message) == (HeadState.ALIVE, True), "it was restored: no lie"


def test_store_that_is_away_does_not_keep_the_boxes_of_the_others(
    told: tuple[Head, Path], tmp_path: Path
) -> None:
    head, _ = told
    (tmp_path / "paris" / "heads").mkdir(parents=True)
    (tmp_path / "paris" / "heads" / "box-1.json").write_bytes(msgspec.json.encode(head))
    folder = tmp_path / "fleet"
    folder.mkdir()
    stores = [f'[[stores]]\nname = "{name}"\nurl = "../{name}"\n' for name in ("berlin", "paris")]
    (folder / "fleet.toml").write_text("".join(stores))
    done = CliRunner().invoke(fleet, ["heads", "--in", str(folder), "--nl"])
    assert [json.loads(line)["device_id"] for line in done.stdout.splitlines()] == ["box-1"]
    assert "berlin: " in done.stderr
    assert "paris" not in done.stderr
    assert done.exit_code == 1

    (tmp_path / "berlin" / "heads").mkdir(parents=True)
    done = CliRunner().invoke(fleet, ["heads", "--in", str(folder), "--nl"])
    assert (done.exit_code, done.stderr) == (0, "")
