"""Our own JSONL, as ``edge-store export`` writes it: each result comes back with its id and times,
and with what was said of it later. A file that ends in zstd's or gzip's name is read as such.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_store.errors import ImportFailed
from edge_store.exports.lines import LineFields, LineOf
from edge_store.imports.sourced import FAULTS, Fault, Source, Sourced, require_plausible, unread

__all__ = ["lines_of", "open_source"]

CHUNK_BYTES = 64 * 1024
LINE_BYTES_MAX = 512 * 2**20  # of a file that has no lines
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # with which Windows begins a text


def open_source(source: str, _table: str | None) -> Source:
    """A file, or - for standard input."""
    file = opened(source)
    return Source(None, _rows(file), file.close, "line")


def opened(source: str) -> BinaryIO:
    """Raises ``ImportFailed``: there is no such file."""
    if source == "-":
        return open(0, "rb", closefd=False)
    path = Path(source)
    try:
        if path.suffix == ".gz":
            return io.BufferedReader(_Unpacked(path, _gzip_pieces(path.open("rb"))))
        if path.suffix == ".zst":
            return io.BufferedReader(_Unpacked(path, _zstd_pieces(path.open("rb"))))
        return path.open("rb")
    except OSError as exc:
        raise ImportFailed(f"{path} cannot be read: {exc.strerror}", hint="name a file") from exc


class _Unpacked(io.RawIOBase):
    """What a compressed file holds. One that was cut or is damaged ends in ``ImportFailed``."""

    def __init__(self, path: Path, pieces: Iterator[bytes]) -> None:
        self._path = path
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as BufferedReader calls it
        """The next bytes; 0 after the last."""
        while not self._rest:
            piece = self._next()
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bytes | None:
        try:
            return next(self._pieces, None)
        except (OSError, EOFError, ValueError, zlib.error) as exc:
            raise ImportFailed(
                f"{self._path} cannot be read to its end: {exc}",
                hint="what stood before that is in; bring the whole file, and give it again",
            ) from exc


def _gzip_pieces(packed: BinaryIO) -> Iterator[bytes]:
    with packed, gzip.open(packed, "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _zstd_pieces(packed: BinaryIO) -> Iterator[bytes]:
    """Of all frames. (``stream_reader`` would take a file that was cut for a whole one.)"""
    import zstandard  # noqa: PLC0415  (only where it is used)

    frame = None
    with packed:
        while chunk := packed.read(CHUNK_BYTES):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(chunk)
                except zstandard.ZstdError as exc:
                    raise ValueError(exc) from exc
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError("it was cut")


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Those that are not empty, with their numbers.

    Raises:
        ImportFailed: one is longer than any result, or all are in an array.
    """
    number = 0
    while line := file.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) == LINE_BYTES_MAX:
            raise ImportFailed(
                f"line {number} is longer than {LINE_BYTES_MAX} bytes: it is no line of a result",
                hint="is it the right file, and the right --from?",
            )
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
            if line.lstrip().startswith(b"["):
                raise ImportFailed(
                    "it is one JSON array, and not a row a line",
                    hint="`jq -c '.[]' FILE | edge-store import … -` makes lines of it",
                )
        if line.strip():
            yield number, line


def _rows(file: BinaryIO) -> Iterator[Sourced | Fault]:
    read = LineOf()
    for number, line in lines_of(file):
        try:
            found = read(line)
            if not found.is_recorded:
                require_plausible(found.result)
            yield Sourced(number, found.result, found.said)
        except FAULTS as exc:
            yield unread(number, exc, line, LineFields)
