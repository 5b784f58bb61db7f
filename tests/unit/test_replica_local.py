"""The disk that replication may take is bounded; a pause has an end, whatever the clock does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.replicating import Database

from edge_store.alerts import AlarmName, Alarms
from edge_store.config import ReplicaSection
from edge_store.errors import ReplicationError
from edge_store.observability.metrics import Metrics
from edge_store.replica import pause as pause_module
from edge_store.replica.health import LOOK_EVERY_S, Watch
from edge_store.replica.local import Held, has_outgrown, measure, remove_dropped
from edge_store.replica.past import Past
from edge_store.replica.pause import Pause
from edge_store.replica.status import ReplicaState, Tracker
from edge_store.sqlite import DatabaseThread, open_reader


@pytest.mark.parametrize(
    ("state", "size", "is_over"),
    [
        (ReplicaState.OK, 10_000, False),
        (ReplicaState.OFFLINE, 100, False),
        (ReplicaState.OFFLINE, 101, True),
        (ReplicaState.BROKEN, 101, True),
        (ReplicaState.LAGGING, 150, False),
        (ReplicaState.LAGGING, 151, True),
        (ReplicaState.STALLED, 150, False),
        (ReplicaState.STALLED, 151, True),
    ],
)
def test_room_for_an_upload_is_left_where_one_may_be_under_way(
    state: ReplicaState,
    size: int,
    is_over: bool,  # noqa: FBT001  (a table)
) -> None:
    held = Held(wal_bytes=40, ltx_bytes=size - 40, ltx_files=1, database_bytes=50)
    assert has_outgrown(held, 100, state) is is_over


def test_every_file_of_litestream_counts_as_what_it_takes_on_the_disk(tmp_path: Path) -> None:
    ltx = tmp_path / "litestream" / "ltx"
    (ltx / "0").mkdir(parents=True)
    (ltx / "0" / "a.ltx").write_bytes(b"x")
    (tmp_path / "results.db-wal").write_bytes(bytes(300))
    found = measure(tmp_path / "results.db", ltx)
    assert (found.wal_bytes, found.ltx_files, found.database_bytes) == (300, 1, 0)
    assert found.ltx_bytes == 512 * (ltx / "0" / "a.ltx").stat().st_blocks > 1
    assert measure(tmp_path / "results.db", tmp_path / "none").ltx_bytes == 0


def test_what_a_removal_that_was_cut_short_has_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "dropped" / "0").mkdir(parents=True)
    remove_dropped(tmp_path / "ltx")
    assert list(tmp_path.iterdir()) == []


def test_pause_is_read_again_and_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000_000_000
    monkeypatch.setattr(pause_module, "now_ms", lambda: now)
    until = Pause(tmp_path / "results.db").begin(60)
    assert until == now + 60_000
    again = Pause(tmp_path / "results.db")
    assert again.now is not None
    assert again.now.until == until
    now += 60_000
    assert again.now is None


def test_pause_that_is_made_longer_keeps_its_beginning_and_one_that_is_ended_is_gone(
    tmp_path: Path,
) -> None:
    pause = Pause(tmp_path / "results.db")
    pause.begin(60)
    assert pause.now is not None
    since = pause.now.since
    pause.begin(3600)
    assert pause.now.since == since
    pause.end()
    assert Pause(tmp_path / "results.db").now is None


def test_clock_that_was_set_back_ends_a_pause_that_would_outlast_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = Pause(tmp_path / "results.db")
    until = pause.begin(3600)
    monkeypatch.setattr(pause_module, "now_ms", lambda: until - 8 * 86_400_000)
    assert pause.now is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"since": "x", "until": 1}'])
def test_file_of_a_pause_that_is_not_understood_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "replica-pause.json").write_bytes(content)
    assert Pause(tmp_path / "results.db").now is None


def test_pause_that_cannot_be_ended_goes_on(tmp_path: Path) -> None:
    pause = Pause(tmp_path / "results.db")
    pause.begin(60)
    kept = tmp_path / "replica-pause.json"
    kept.unlink()
    kept.mkdir()  # nor can root unlink it
    with pytest.raises(OSError, match="replica-pause"):
        pause.end()
    assert pause.now is not None


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "results.db", "box-1")
    yield found
    found.close()


async def test_a_disk_that_cannot_be_looked_at_ends_nothing(
    database: Database, tmp_path: Path
) -> None:
    unused: Any = None
    alarms = Alarms(Metrics())
    watch = Watch(database.path, tmp_path / "ltx", unused, alarms, local_bytes_max=1)
    status = Tracker().status
    await watch.look(status, None, None)
    before = watch.health
    assert before is not None
    (tmp_path / "ltx").write_bytes(b"no folder, so that to list it fails")
    assert await watch.look(status, None, None) == LOOK_EVERY_S
    assert watch.health is before
    database.path.rename(tmp_path / "elsewhere.db")
    await watch.look(status, None, None)
    assert [each.name for each in alarms.active] == [AlarmName.REPLICA_BROKEN]


async def test_a_database_that_cannot_be_read_does_not_tell_whose_the_path_is(
    database: Database, tmp_path: Path
) -> None:
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    await reader.run(lambda connection: connection.set_progress_handler(lambda: 1, 1))
    unused: Any = None
    section = ReplicaSection(url=f"file://{tmp_path}/replica")
    past = Past(section, database.boot, reader, unused, unused, unused)
    with pytest.raises(ReplicationError, match="whose replica it is"):
        await past.lineage(None, None)
    await reader.close()
