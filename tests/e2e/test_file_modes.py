"""Results are for the daemon's user and group: no file that holds them is open to others."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Box

DATABASE = ("results.db", "results.db-wal", "results.db-shm")


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    previous = os.umask(0o022)
    yield
    os.umask(previous)


def modes(directory: Path, *names: str) -> dict[str, str]:
    return {name: f"{(directory / name).stat().st_mode & 0o777:04o}" for name in names}


def test_init_makes_files_that_others_cannot_read(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    files = ("edge-store.toml", "results.db")
    assert modes(box.directory, *files) == dict.fromkeys(files, "0640")


def test_serve_makes_files_that_others_cannot_read(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.database.unlink()
    with box.serve():
        assert modes(box.directory, *DATABASE) == dict.fromkeys(DATABASE, "0640")


def test_exports_are_made_for_owner_and_group(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        daemon.chat("What is on the shelf?")
        daemon.stop()
    chosen = ("--db", str(box.database))
    for name, kind in (("a.jsonl", "jsonl"), ("a.csv", "csv"), ("lake", "parquet")):
        done = box.run("export", "--to", kind, *chosen, str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    done = box.run("query", "select 1 as one", *chosen, "--parquet", str(tmp_path / "q.parquet"))
    assert done.returncode == 0, done.stderr
    done = box.run("backup", *chosen, str(tmp_path / "b.db.zst"))
    assert done.returncode == 0, done.stderr
    files = ("a.jsonl", "a.jsonl.state.json", "a.csv", "q.parquet", "b.db.zst", "b.db.zst.json")
    assert modes(tmp_path, *files) == dict.fromkeys(files, "0640")
    (part,) = (tmp_path / "lake").glob("date=*/*.parquet")
    assert modes(part.parent, part.name, ".", "..") == {
        part.name: "0640",
        ".": "0750",
        "..": "0750",
    }


def test_archives_in_a_folder_that_was_there_are_for_owner_and_group(tmp_path: Path) -> None:
    archive, old = tmp_path / "archive", tmp_path / "old.db"
    archive.mkdir(mode=0o755)
    box = Box.init(tmp_path / "box", RETENTION__KEEP_DAYS="1e-9", RETENTION__ARCHIVE=str(archive))
    config = ("--config", str(box.directory))

    def parts() -> dict[str, str]:
        (part,) = archive.rglob("*.parquet")
        return modes(part.parent, ".", part.name)

    with box.serve() as daemon:
        assert daemon.chat("to be kept", user="ada").status_code == 200
        assert daemon.chat("to be forgotten", user="bob").status_code == 200
        done = box.run("retention", "apply", "--yes", *config)  # which writes the file itself
        assert (done.returncode, json.loads(done.stdout)["results"]) == (0, 2), done.stderr
        assert [*parts().values()] == ["0750", "0640"]
        done = box.run("forget", "--user", "bob", "--yes", *config)  # which writes it anew
        assert done.returncode == 0, done.stderr
        assert [*parts().values()] == ["0750", "0640"]
        done = box.run("archive", "restore", "--to", str(old), *config)
        assert done.returncode == 0, done.stderr
        assert modes(tmp_path, old.name) == {old.name: "0640"}
