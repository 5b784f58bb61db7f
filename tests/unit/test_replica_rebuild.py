"""What ends ``litestream restore`` from outside says nothing of the replica."""

import struct
import sys
from pathlib import Path

import pytest

from edge_store.errors import (
    DiskFull,
    EdgeStoreError,
    LitestreamUnavailable,
    ReplicationError,
    RestoreFailed,
)
from edge_store.ids import DeviceId
from edge_store.replica import litestream
from edge_store.replica import rebuild as module
from edge_store.replica.litestream import Program, find_litestream
from edge_store.replica.location import parse_location
from edge_store.replica.rebuild import Source
from edge_store.replica.scratch import scratch_for


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("kill -9 $$", ReplicationError),
        ("echo 'write x.db.tmp: no space left on device' >&2; exit 1", DiskFull),
        ("echo 'nonsequential page numbers' >&2; exit 1", RestoreFailed),
    ],
)
async def test_only_what_litestream_finds_wrong_is_wrong_with_the_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, kind: type[EdgeStoreError]
) -> None:
    program = tmp_path / "litestream"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    known = Program(path=program, version="0.5.17")
    monkeypatch.setattr(module, "find_litestream", lambda _timeout_s: known)
    source = replica_of_one_file(tmp_path)
    with scratch_for(tmp_path / "copy.db") as scratch, pytest.raises(EdgeStoreError) as caught:
        await source.rebuild(scratch, scratch.work / "copy.db", None)
    assert type(caught.value) is kind


async def test_where_the_processor_is_short_litestream_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the idle class, on a busy machine, it took more than 10 s to say its version."""
    program = tmp_path / "litestream"
    program.write_text("#!/bin/sh\nif [ $1 = version ]; then sleep 0.5; echo 0.5.17; fi; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(litestream, "CHECK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LitestreamUnavailable):
        find_litestream()
    source = replica_of_one_file(tmp_path)
    with scratch_for(tmp_path / "copy.db") as scratch, pytest.raises(RestoreFailed):
        await source.rebuild(scratch, scratch.work / "copy.db", None)


def replica_of_one_file(tmp_path: Path) -> Source:
    file = tmp_path / "replica" / "box-1" / "results.db" / "ltx" / "0" / f"{1:016x}-{1:016x}.ltx"
    file.parent.mkdir(parents=True)
    head = struct.pack(">4sIIIQQQ", b"LTX1", 2, 4096, 1, 1, 1, 1)
    file.write_bytes(head.ljust(100, b"\0"))
    return Source(parse_location(f"{tmp_path}/replica"), None, DeviceId("box-1"))
