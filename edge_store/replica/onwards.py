"""Finds, fetches and applies those files of a replica that lead on from a copy of it.

A restore reads a whole database; most boxes have changed a few pages since the copy was made. The
files carry no checksum of the database. So it must be the replica that the copy is of: a file that
lay there before still does, and none of those was written over. What comes of them is the caller's
to check as a whole. Whatever does not fit is ``NotOnwards``, and the caller restores.
"""

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_store.errors import Corrupt, RestoreFailed
from edge_store.ids import DeviceId
from edge_store.replica.download import Download, Fetched, Vanished
from edge_store.replica.location import Credentials, Location
from edge_store.replica.ltx import Source, apply_ltx
from edge_store.replica.points import (
    LtxFile,
    Point,
    Txid,
    chain_onwards,
    choose,
    list_files,
    read_points,
)

__all__ = ["NotOnwards", "Onwards", "apply_onwards", "choose_onwards", "find_onwards"]

# Format versions of a database that is not in WAL mode (sqlite.org/fileformat2.html): to have
# SQLite change them takes a WAL, a journal and several flushes.
NO_WAL, NO_WAL_AT = b"\x01\x01", 18
HEADER, MAGIC = struct.Struct(">16sH"), b"SQLite format 3\0"
LARGEST, LARGEST_AS = 1 << 16, 1  # bytes of a page, and as it is written


class NotOnwards(Exception):
    """Why a copy cannot be brought forward."""


class Onwards(NamedTuple):
    """``chosen`` lead from a copy to ``point``, the newest state; ``listed`` are all there are."""

    listed: tuple[LtxFile, ...]
    chosen: Sequence[LtxFile]
    point: Point

    async def database_bytes(self, download: Download) -> int:
        """Of the state that they lead to; 0 where it is the copy's. Raises as ``fetch`` does."""
        try:
            return await download.database_bytes(self.chosen[-1]) if self.chosen else 0
        except Vanished:
            raise NotOnwards("its files are merged while they are read") from None

    async def fetch(self, download: Download) -> Fetched:
        """Have them here. Safe to cancel.

        Raises:
            NotOnwards: the box has merged one meanwhile.
            ReplicationError: the store does not answer.
        """
        try:
            return await download.fetch(self.chosen)
        except Vanished:
            raise NotOnwards("its files are merged while they are read") from None


async def find_onwards(
    location: Location,
    credentials: Credentials | None,
    device_id: DeviceId,
    since: Txid,
    witnesses: Iterable[LtxFile],
) -> Onwards:
    """Look into the replica. ``witnesses`` are files that lay there when the copy was made.

    Raises:
        NotOnwards: it is another history, or no files lead on, or to a state at all.
        ReplicationError: it cannot be listed, or holds nothing.
    """
    files = await list_files(location, credentials, device_id)
    return choose_onwards(files, since, witnesses, f"the replica of {device_id}")


def choose_onwards(
    files: Sequence[LtxFile], since: Txid, witnesses: Iterable[LtxFile], of: str
) -> Onwards:
    """Of a listing. Raises as ``find_onwards`` does."""
    try:
        point = choose(read_points(files, of), None)
    except RestoreFailed as exc:
        raise NotOnwards(str(exc)) from exc
    listed = {file.key: file for file in files}
    there = [(file, listed[file.key]) for file in witnesses if file.key in listed]
    if not any(before == now for before, now in there):
        raise NotOnwards("none of the files that were there before is: it may be another history")
    for before, now in there:
        if before != now:
            raise NotOnwards(f"{now.key} was written over since")
    chosen = chain_onwards(files, since, point)
    if chosen is None:
        raise NotOnwards(f"no files lead on from {since:016x} to {point.txid:016x}")
    return Onwards(tuple(files), chosen, point)


def apply_onwards(database: Path, files: Iterable[tuple[Source, LtxFile]]) -> None:
    """Write them into a database that nobody has open. After an error it is worth nothing.

    Raises:
        RestoreFailed: one of them is damaged, or not of such a database.
        Corrupt: there is no database.
    """
    descriptor = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    try:
        page_size = _page_size(os.pread(descriptor, HEADER.size, 0), database)
        for source, file in files:
            apply_ltx(source, file, descriptor, page_size)
        os.pwrite(descriptor, NO_WAL, NO_WAL_AT)
    finally:
        os.close(descriptor)


def _page_size(header: bytes, database: Path) -> int:
    """To have SQLite say it takes as long as to read the schema."""
    magic, page_size = HEADER.unpack(header.ljust(HEADER.size))
    if magic != MAGIC:
        raise Corrupt(f"{database} is no database", hint="it is restored as a whole")
    return LARGEST if page_size == LARGEST_AS else int(page_size)
