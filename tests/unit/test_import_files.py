"""Files that an import cannot read to their end: they are named, and what stood before is in."""

import gzip
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from support.exporting import box_of, exported
from support.records import new_database

from edge_store.errors import ImportFailed
from edge_store.imports import jsonl
from edge_store.imports.batches import Importing
from edge_store.recorder.disk import Disk
from edge_store.recorder.intake import BootOfItsOwn

ROWS = 20


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """An export of another box."""
    box_of(tmp_path / "other.db", ROWS)[0].close()
    exported(tmp_path / "other.db", tmp_path / "all.jsonl", "jsonl")
    return (tmp_path / "all.jsonl").read_bytes()


def pack_of(suffix: str) -> Callable[[bytes], bytes]:
    return gzip.compress if suffix == "gz" else zstandard.compress


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_file_that_was_cut_is_told_and_what_stood_before_that_is_taken(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    pack = pack_of(suffix)
    more = pack(b"\n" * 2**20 + os.urandom(2**18))
    file = tmp_path / f"cut.jsonl.{suffix}"
    file.write_bytes(pack(content) + more[: len(more) // 2])
    source = jsonl.open_source(str(file), None)
    path = tmp_path / "results.db"
    with closing(new_database(path)[0]) as connection:
        boot = BootOfItsOwn(connection, Disk(path, 0), "test")
        importing = Importing(
            boot.take, lambda result: result, tenant=None, faults_max=10**6, said=lambda _text: None
        )
        with pytest.raises(ImportFailed, match=r"cut\.jsonl\..* cannot be read to its end"):
            importing.run(source, lambda _read, _taken: None)
        boot.end()
        source.close()
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (ROWS,)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_what_is_not_packed_as_its_name_says_is_refused_by_its_name(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    file = tmp_path / f"plain.{suffix}"
    file.write_bytes(content)
    with pytest.raises(ImportFailed, match=f"plain.{suffix} cannot be read"):
        list(jsonl.open_source(str(file), None).rows)


def test_all_frames_of_a_file_are_read(tmp_path: Path, content: bytes) -> None:
    for suffix in ("gz", "zst"):
        file = tmp_path / f"two.{suffix}"
        file.write_bytes(pack_of(suffix)(content) * 2)
        assert len(list(jsonl.open_source(str(file), None).rows)) == 2 * ROWS
