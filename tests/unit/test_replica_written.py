"""A replica that names no owner is from here when its newest file lies in Litestream's folder."""

from pathlib import Path

import pytest
from support.records import new_database

from edge_store.errors import ReplicaNotFound
from edge_store.ids import BootId, DeviceId
from edge_store.replica import written
from edge_store.replica.anew import Ground
from edge_store.replica.location import parse_location
from edge_store.replica.written import is_written_from
from edge_store.sqlite import DatabaseThread, open_reader

BOX = DeviceId("box-1")
NAME = "0000000000000002-0000000000000002.ltx"


def put(folder: Path, level: str, name: str, content: bytes) -> None:
    (folder / level).mkdir(parents=True, exist_ok=True)
    (folder / level / name).write_bytes(content)


async def asked(tmp_path: Path) -> bool:
    return await is_written_from(tmp_path / "ltx", parse_location(f"{tmp_path}/r"), None, BOX)


@pytest.mark.parametrize("whole_bytes_max", [1 << 20, 0])
@pytest.mark.parametrize(
    ("here", "is_ours"),
    [(b"x" * 100, True), (b"x" * 99 + b"y", False), (b"x" * 101, False), (None, False)],
)
async def test_newest_file_tells_from_where_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: bytes | None,
    is_ours: bool,  # noqa: FBT001
    whole_bytes_max: int,
) -> None:
    monkeypatch.setattr(written, "WHOLE_BYTES_MAX", whole_bytes_max)
    replica = tmp_path / "r" / BOX / "results.db" / "ltx"
    put(replica, "0", "0000000000000001-0000000000000001.ltx", b"older, and here no more")
    put(replica, "0", NAME, b"x" * 100)
    if here is not None:
        put(tmp_path / "ltx", "0", NAME, here)
    assert await asked(tmp_path) is is_ours


async def test_a_state_that_only_a_snapshot_has_is_not_ours(tmp_path: Path) -> None:
    replica = tmp_path / "r" / BOX / "results.db" / "ltx"
    put(replica, "9", "0000000000000001-0000000000000003.ltx", b"x")
    put(replica, "0", NAME, b"x")
    put(tmp_path / "ltx", "0", NAME, b"x")
    assert not await asked(tmp_path)


async def test_a_folder_is_adopted_until_it_is_filled_under_a_claim(tmp_path: Path) -> None:
    database = tmp_path / "results.db"
    connection, _ = new_database(database)
    connection.close()
    thread = await DatabaseThread.open(lambda: open_reader(database))
    ground = Ground(database, tmp_path / "litestream" / "ltx", thread)
    boot = BootId("boot-1")
    assert not ground.continues(None)
    assert ground.adopt()
    assert ground.continues(None)
    ground.note(boot)
    assert not ground.continues(None)
    assert ground.continues(boot)
    assert not Ground(database, tmp_path / "litestream" / "ltx", thread).adopt()
    await thread.close()


async def test_where_there_is_no_replica_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    with pytest.raises(ReplicaNotFound):
        await asked(tmp_path)
