"""A clean stop and start must not upload the database again."""

from pathlib import Path

from support.replicating import DEADLINE_S, WriterProcess, contents, replicate

from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore

DEVICE = "box-a"
DATABASE_BYTES = 8 * 2**20
UPLOAD_BYTES_MAX = 2**20


def uploaded_bytes(replica: Path) -> int:
    """Of the files of level 0: higher levels are made from them again, each once."""
    return sum(file.stat().st_size for file in (replica / DEVICE).glob("results.db/ltx/0/*.ltx"))


async def test_clean_restart_uploads_less_than_a_megabyte(tmp_path: Path) -> None:
    database, replica = tmp_path / "results.db", tmp_path / "replica"
    url = f"file://{replica}"
    with WriterProcess(database, DEVICE) as writer:
        async with replicate(database, DEVICE, url, stop_timeout_s=DEADLINE_S) as litestream:
            for _ in range(10):
                writer.write(200, body_bytes=5000)
            await litestream.sync(60)
            writer.write(1)
        assert litestream.is_replicated
        writer.leave()
    before = uploaded_bytes(replica)
    assert before > DATABASE_BYTES, "a small upload proves nothing of a small database"

    for _ in range(2):
        with WriterProcess(database, DEVICE) as writer:
            async with replicate(database, DEVICE, url, stop_timeout_s=DEADLINE_S) as litestream:
                writer.write(1)
            assert litestream.is_replicated
            writer.leave()

    assert 0 < uploaded_bytes(replica) - before < UPLOAD_BYTES_MAX
    copy = tmp_path / "copy.db"
    await restore(parse_location(str(replica)), DeviceId(DEVICE), copy, timeout_s=60)
    assert contents(copy) == contents(database)
