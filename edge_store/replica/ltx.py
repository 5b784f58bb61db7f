"""Reads LTX files, of which a replica is made: the pages that changed between two TXIDs.

A file is a header of 100 bytes, a frame for each page (its number, flags, a size, and the page as
one LZ4 block), six zero bytes, an index (three varints for each page, and a zero) with its size,
and a trailer of two checksums. The last one, CRC-64/GO-ISO with its highest bit set, covers
everything, the pages unpacked. Litestream 0.5 writes no checksum of the database (flag 2), so what
a file is applied to is the caller's to check. Integers are big-endian.
"""

import io
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import fastcrc
import lz4.block

from edge_store.errors import RestoreFailed
from edge_store.replica.points import LtxFile
from edge_store.result import Record

__all__ = [
    "HEADER_BYTES", "LEAST_BYTES", "MEND", "LtxHeader", "LtxWal", "Source", "apply_ltx", "assemble",
    "database_bytes", "has_every_page", "leads_to", "read_header", "read_wal",
]  # fmt: skip

MAGIC = b"LTX1"
HEADER = struct.Struct(">4sIIIQQQ")  # magic, flags, page size, pages, first, last, time
HEADER_BYTES = 100
WAL = struct.Struct(">QQ8s")  # where in the WAL it begins, bytes of it, its salts
WAL_AT = 48
FRAME = struct.Struct(">IHI")  # page number, flags, bytes of the block
FRAME_BYTES, NUMBER_BYTES = 10, 6
READ_BYTES = 256 << 10
HAS_SIZE = 1
INDEX_SIZE_BYTES, TRAILER_BYTES = 8, 16
GOES_ON = bytes(range(0x80, 0x100))  # in a varint: each byte but its last
INDEX_VARINTS = 3
LEAST_BYTES = HEADER_BYTES + NUMBER_BYTES + INDEX_SIZE_BYTES + TRAILER_BYTES
IS_CHECKSUM = 1 << 63
LOCK_BYTE = 1 << 30  # SQLite never stores anything in the page that holds it
MEND = (
    "where the box still runs, `edge-store replica drill` there uploads its database anew; else "
    "restore an earlier state, --at TIME: `edge-store replica points` lists them"
)
PAGE_SIZES = frozenset(1 << power for power in range(9, 17))

crc64 = fastcrc.crc64.go_iso
Source: TypeAlias = Path | bytes  # where a file lies, or all of it


class LtxHeader(Record, frozen=True, kw_only=True):
    """``pages`` is the size of the database that the file leads to; ``at``: UTC ms, the box's."""

    page_size: int
    pages: int
    first: int
    last: int
    at: int


class LtxWal(Record, frozen=True, kw_only=True):
    """Which part of a WAL one of Litestream's own files of level 0 was made of, in bytes."""

    txid: int
    salts: bytes
    end: int


def read_wal(content: bytes, txid: int) -> LtxWal | None:
    """What the first 100 bytes say of it; None when they are not there."""
    if len(content) < HEADER_BYTES:
        return None
    start, size, salts = WAL.unpack_from(content, WAL_AT)
    return LtxWal(txid=txid, salts=salts, end=start + size)


def has_every_page(path: Path) -> bool:
    """Whether it has each page of the database that it leads to, by the number of entries of its
    index. False for one that cannot be read.
    """
    try:
        with path.open("rb") as reading:
            header = read_header(reading.read(HEADER_BYTES), path.name)
            reading.seek(-TRAILER_BYTES - INDEX_SIZE_BYTES, os.SEEK_END)
            size = int.from_bytes(reading.read(INDEX_SIZE_BYTES), "big")
            reading.seek(-TRAILER_BYTES - INDEX_SIZE_BYTES - size, os.SEEK_END)
            varints = len(reading.read(size).translate(None, GOES_ON))
    except (OSError, RestoreFailed):
        return False
    unused = 1 if header.pages > LOCK_BYTE // header.page_size else 0
    return varints // INDEX_VARINTS >= header.pages - unused


def read_header(content: bytes, name: str) -> LtxHeader:
    """What the first 100 bytes say.

    Raises:
        RestoreFailed: it is no LTX file.
    """
    if len(content) < HEADER_BYTES or not content.startswith(MAGIC):
        raise _damaged(name, "it is no LTX file")
    _magic, _flags, page_size, pages, first, last, at = HEADER.unpack_from(content)
    if page_size not in PAGE_SIZES or not 0 < first <= last:
        raise _damaged(name, f"its header is none: pages of {page_size}, TXIDs {first} to {last}")
    return LtxHeader(page_size=page_size, pages=pages, first=first, last=last, at=at)


def database_bytes(source: Source, file: LtxFile) -> int:
    """Of the state that the file leads to. Raises ``RestoreFailed``: it is no LTX file."""
    with _opened(source) as reading:
        header = read_header(reading.read(HEADER_BYTES), file.key)
    return header.page_size * header.pages


def apply_ltx(source: Source, file: LtxFile, database: int, page_size: int) -> LtxHeader:
    """Write the pages of the file into the open ``database``, and cut or lengthen that to the size
    that the file says.

    The checksum is at the end: after an error the database is worth nothing. On a thread.

    Raises:
        RestoreFailed: it is damaged, or not the file of the listing.
    """
    with _opened(source) as reading:
        header = _header(reading, file)
        if header.page_size != page_size:
            raise _damaged(file.key, f"its pages have {header.page_size} bytes, not {page_size}")
        for number, page in _pages(reading, header, file.key):
            os.pwrite(database, page, (number - 1) * page_size)
    os.ftruncate(database, header.pages * page_size)
    return header


def assemble(files: Sequence[tuple[Path, LtxFile]], to: Path) -> None:
    """Make the database ``to`` of files that lead to it from nothing. As ``apply_ltx`` does."""
    path, file = files[0]
    with path.open("rb") as reading:
        header = read_header(reading.read(HEADER_BYTES), file.key)
    descriptor = os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for path, file in files:
            apply_ltx(path, file, descriptor, header.page_size)
    finally:
        os.close(descriptor)


def leads_to(path: Path, file: LtxFile, database: Path) -> bool:
    """Whether ``database`` can be the state that the file at ``path`` leads to: it has each page of
    the file as it is there. On a thread.

    Raises:
        RestoreFailed: the file is damaged, or not the file of the listing.
    """
    is_it = True
    with (
        _opened(path) as reading,
        database.open("rb", buffering=0) as opened,
    ):
        header = _header(reading, file)
        for number, page in _pages(reading, header, file.key):  # to the checksum at the end
            there = os.pread(opened.fileno(), len(page), (number - 1) * header.page_size)
            is_it = is_it and there == page
    return is_it


def _opened(source: Source) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return source.open("rb", buffering=READ_BYTES)


def _header(reading: BinaryIO, file: LtxFile) -> LtxHeader:
    header = read_header(reading.read(HEADER_BYTES), file.key)
    if (header.first, header.last) != (file.first, file.last):
        raise _damaged(file.key, f"it holds TXIDs {header.first:x} to {header.last:x}")
    return header


def _pages(reading: BinaryIO, header: LtxHeader, name: str) -> Iterator[tuple[int, bytes]]:
    """Its pages by number, ascending; after the last one an error if the checksum does not hold."""
    end = reading.seek(0, os.SEEK_END) - TRAILER_BYTES
    unused = LOCK_BYTE // header.page_size + 1
    reading.seek(0)
    checksum = crc64(reading.read(HEADER_BYTES))
    at, before = HEADER_BYTES, 0
    while at + FRAME_BYTES <= end:
        frame = reading.read(FRAME_BYTES)
        if len(frame) < FRAME_BYTES:
            raise _damaged(name, "it was cut short while it was read")
        number, flags, size = FRAME.unpack(frame)
        if not number:
            break
        after = at + FRAME_BYTES + size
        if flags != HAS_SIZE or after > end or not before < number <= header.pages:
            raise _damaged(name, f"the frame at byte {at} is none")
        page = _page(reading.read(size), header.page_size, name)
        if number == unused:
            raise _damaged(name, f"page {number} is one that SQLite does not use")
        checksum = crc64(page, crc64(frame, checksum))
        yield number, page
        at, before = after, number
    reading.seek(at)
    rest = reading.read()
    if any(rest[:NUMBER_BYTES]) or len(rest) < NUMBER_BYTES + INDEX_SIZE_BYTES + TRAILER_BYTES:
        raise _damaged(name, "its end is missing")
    checksum = crc64(rest[:-INDEX_SIZE_BYTES], checksum)
    if checksum | IS_CHECKSUM != int.from_bytes(rest[-INDEX_SIZE_BYTES:], "big"):
        raise _damaged(name, "its checksum does not hold")


def _page(block: bytes, page_size: int, name: str) -> bytes:
    try:
        page: bytes = lz4.block.decompress(block, uncompressed_size=page_size)
    except (lz4.block.LZ4BlockError, ValueError) as exc:
        raise _damaged(name, "a page cannot be unpacked") from exc
    if len(page) != page_size:
        raise _damaged(name, f"a page has {len(page)} bytes")
    return page


def _damaged(name: str, problem: str) -> RestoreFailed:
    return RestoreFailed(
        f"{name} is damaged: {problem}",
        hint=MEND,
    )
