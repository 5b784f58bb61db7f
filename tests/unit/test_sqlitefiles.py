"""No command writes its own file over one of SQLite's."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.records import make_result, new_database

from edge_store.cli.main import cli
from edge_store.errors import InvalidRequest
from edge_store.rows import insert_rows, to_row
from edge_store.sqlite import open_reader

# what writes over a file, and what makes one; FILE is it, the box is where the command is called
WRITTEN = [
    "query --db results.db --parquet FILE 'select 1'",
    "logs ls --db results.db --parquet FILE",
    "stats --db results.db --parquet FILE",
    "fleet query --in . --parquet FILE 'select 1'",
    "archive query --parquet FILE 'select 1'",
    "batch fetch batch_1 --to FILE",
    "fleet pull --from . --into fleet --report FILE",
    "fleet health --from . --textfile FILE",
]
MADE = [
    "backup --db results.db FILE",
    "backup --db results.db --no-compress FILE",
    "restore results.db --to FILE",
    "replica restore --from . --device a --to FILE",
    "archive restore --to FILE",
    "support-bundle -o FILE",
]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the file of a box, whose one result is in the WAL alone."""
    monkeypatch.chdir(tmp_path)
    connection, _ = new_database(tmp_path / "results.db")
    connection.execute("PRAGMA wal_checkpoint (truncate)")
    insert_rows(connection, [to_row(1, "t", make_result(1))])
    assert (tmp_path / "results.db-wal").stat().st_size
    yield tmp_path
    connection.close()


def refused(command: str, file: str) -> str:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    arguments = [word.strip("'") for word in command.replace("select 1", "select+1").split()]
    named = [word.replace("FILE", file).replace("+", " ") for word in arguments]
    done = CliRunner().invoke(cli, named)
    assert isinstance(done.exception, InvalidRequest), (done.output, done.exception)
    assert before == {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    with closing(open_reader(Path("results.db"))) as reader:
        assert reader.execute("SELECT count(*) FROM results").fetchone() == (1,)
    return str(done.exception)


@pytest.mark.parametrize("command", WRITTEN)
def test_no_database_is_written_over(box: Path, command: str) -> None:
    (box / "linked").symlink_to("results.db")
    (box / "same").hardlink_to("results.db-wal")
    for name in ("results.db", "linked"):
        assert refused(command, name).startswith(f"{name} is a database of SQLite")
    for name in ("results.db-wal", "results.db-shm", "results.db-journal", "same"):
        assert refused(command, name).startswith(f"{name} belongs to a database of SQLite")


@pytest.mark.parametrize("command", MADE)
def test_nothing_is_made_that_would_become_part_of_a_database(box: Path, command: str) -> None:
    assert not (box / "results.db-journal").exists()
    for name in ("results.db-journal", "results.db-wal"):
        assert refused(command, name).startswith(f"{name} belongs to a database of SQLite")


def test_an_earlier_file_is_written_over(box: Path) -> None:
    for statement in ("select 1 as a", "select 2 as a"):
        done = CliRunner().invoke(
            cli, ["query", "--db", "results.db", "--parquet", "a.parquet", statement]
        )
        assert done.exit_code == 0, done.output
    assert (box / "a.parquet").read_bytes().startswith(b"PAR1")
