"""What a drill restores is on its way to the disk before anybody flushes it."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from edge_store.replica.rebuild import send_to_disk

FIEMAP = 0xC020660B  # Linux: where the parts of a file lie
HEADER, EXTENTS, EXTENT_BYTES, FLAGS_AT = struct.Struct("=QQIIII"), 8, 56, 40
IN_MEMORY = 0x4  # FIEMAP_EXTENT_DELALLOC
MIB = 1 << 20


def is_in_memory(path: Path) -> bool:
    """Whether a part of it has no place on the disk yet."""
    asked = bytearray(HEADER.size + EXTENTS * EXTENT_BYTES)
    HEADER.pack_into(asked, 0, 0, 2**63, 0, 0, EXTENTS, 0)
    with path.open("rb") as file:
        try:
            fcntl.ioctl(file, FIEMAP, asked)
        except OSError:
            pytest.skip("this file system does not tell where a file lies")
    places = [HEADER.size + n * EXTENT_BYTES + FLAGS_AT for n in range(EXTENTS)]
    return any(struct.unpack_from("=I", asked, at)[0] & IN_MEMORY for at in places)


def test_what_was_written_since_the_last_look_goes_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    path.write_bytes(os.urandom(MIB))
    if not is_in_memory(path):
        pytest.skip("this file system gives a file its place at once")
    sent = send_to_disk(path, 0, MIB)
    assert not is_in_memory(path)
    with path.open("ab") as file:
        file.write(os.urandom(MIB))
    assert is_in_memory(path)
    assert send_to_disk(path, sent, 2 * MIB) == 2 * MIB
    assert not is_in_memory(path)
