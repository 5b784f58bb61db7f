"""What is believed of a file after an I/O error."""

from pathlib import Path

import pytest
from support.records import make_result, new_database

from edge_store.chain import is_as_written, verify_chain
from edge_store.errors import StoreError
from edge_store.identity import create_identity
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.recorder.reopen import reopened
from edge_store.sql import sql
from edge_store.sqlite import DatabaseThread, open_writer


def test_a_commit_of_an_older_timeline_with_a_declared_deletion_is_as_written(
    tmp_path: Path,
) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    results = [make_result(number, boot.boot_id) for number in (1, 2, 3)]
    write_batch(connection, boot, read_head(connection), 3, results)
    delete_results(connection, [2], Reason.RETENTION)
    create_identity(connection, "", reason="restored")
    assert verify_chain(connection).faults == ()
    link = connection.execute(sql("select_newest_link")).fetchone()
    assert is_as_written(connection, link)
    connection.execute("UPDATE results SET endpoint = '/forged' WHERE seq = 3")
    assert not is_as_written(connection, link)
    connection.close()


async def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    new_database(path)[0].close()
    database = await DatabaseThread.open(lambda: open_writer(path))
    head = await database.run(read_head)
    path.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError, match="not there any more"):
        await reopened(database, head, None)
    assert not path.exists()
    await database.close()
