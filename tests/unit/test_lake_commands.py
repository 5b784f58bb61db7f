"""``fleet export`` and ``fleet lake`` find the lake, say what they did, and keep it small."""

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.replicating import Database

from edge_store.cli.fleet import fleet
from edge_store.recorder.deletions import Reason, delete_results


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """One box with 3 results, and a fleet.toml that names the lake."""
    (tmp_path / "fleet.toml").write_text('lake = "lake"\n')
    box = Database(tmp_path / "box-a.db", "box-a")
    box.write(3)
    yield tmp_path
    box.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(fleet, arguments)


def test_lake_of_the_folder_is_exported_to_shown_and_cared_for(folder: Path) -> None:
    place = ("--in", str(folder))
    lines = [json.loads(line) for line in run("export", *place, "--json").stdout.splitlines()]
    assert [(line["table"], line["rows"]) for line in lines] == [
        ("results", 3), ("outputs", 3), ("results", 3), ("outputs", 3),
    ]  # fmt: skip
    shown = list(csv.DictReader(run("lake", "ls", *place, "--csv").stdout.splitlines()))
    assert [(row["table"], row["rows"], row["files"]) for row in shown] == [
        ("results", "3", "1"), ("outputs", "3", "1"),
    ]  # fmt: skip
    assert "0 files are 0 now" in run("lake", "compact", *place, "--table", "results").stdout
    expired = run("lake", "expire", *place, "--table", "outputs", "--older-than", "30d")
    assert expired.stdout == "outputs: 3 rows deleted\n"
    vacuumed = run("lake", "vacuum", "--lake", str(folder / "lake"), "--older-than", "1d")
    assert vacuumed.stdout == "results: 0 files removed\noutputs: 0 files removed\n"
    assert "results: 0 rows appended" in run("export", *place).stdout


def test_ids_that_were_forgotten_are_cared_for_with_the_rows(folder: Path) -> None:
    place = ("--in", str(folder))
    assert run("export", *place).exit_code == 0
    with closing(Database(folder / "box-a.db", "box-a")) as box:
        for seq in (1, 2):
            delete_results(box.connection, [seq], Reason.FORGET)
            assert "1 forgotten rows deleted" in run("export", *place).stdout
    compacted = run("lake", "compact", *place).stdout.splitlines()
    assert compacted[-1] == "forgotten: 2 files are 1 now"
    assert run("lake", "vacuum", *place).stdout.splitlines()[-1] == "forgotten: 0 files removed"
    expired = run("lake", "expire", *place, "--older-than", "1d").stdout
    assert "forgotten" not in expired


def test_a_copy_that_fails_is_told_and_the_exit_code_says_so(folder: Path) -> None:
    (folder / "box-b.db").write_bytes(b"no database" * 1000)
    done = run("export", "--in", str(folder), "--table", "results")
    assert done.exit_code == 1
    assert "box-b.db" in done.stdout
    assert "results: 3 rows appended" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("lake", "ls"),
        ("lake", "expire", "--lake", "l", "--older-than", "soon"),
        ("lake", "expire", "--lake", "l", "--older-than", "5h"),
        ("lake", "vacuum", "--lake", "l", "--older-than", "30min"),
        ("lake", "vacuum", "--lake", "l", "--older-than", "23h"),
    ],
)
def test_what_names_no_lake_or_no_span_that_fits_is_a_usage_error(
    arguments: tuple[str, ...],
) -> None:
    assert run(*arguments).exit_code == 2


def test_a_place_without_a_lake_is_told(tmp_path: Path) -> None:
    done = run("lake", "ls", "--lake", str(tmp_path / "nolake"))
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"there is no lake at file://{tmp_path / 'nolake'}:" in done.stderr
