"""Our own JSONL, as ``edge-store export`` writes it: each result comes back with its id and times,
and with what was said of it later. A file that ends in zstd's or gzip's name is read as such.
"""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge_store.errors import ImportFailed
from edge_store.exports.lines import LineOf
from edge_store.imports.sourced import FAULTS, Fault, Source, Sourced, fault

__all__ = ["lines_of", "open_source"]


def open_source(source: str, _table: str | None) -> Source:
    """A file, or - for standard input."""
    file = opened(source)
    return Source(None, _rows(file), file.close)


def opened(source: str) -> BinaryIO:
    """Raises ``ImportFailed``: there is no such file."""
    if source == "-":
        return open(0, "rb", closefd=False)
    path = Path(source)
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]  # it is read as one
        if path.suffix == ".zst":
            import zstandard  # noqa: PLC0415  (only where it is used)

            return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb")))
        return path.open("rb")
    except OSError as exc:
        raise ImportFailed(f"{path} cannot be read: {exc.strerror}", hint="name a file") from exc


def lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Those that are not empty, with their numbers."""
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, line


def _rows(file: BinaryIO) -> Iterator[Sourced | Fault]:
    read = LineOf()
    for number, line in lines_of(file):
        try:
            yield Sourced(number, *read(line))
        except FAULTS as exc:
            yield fault(number, exc)
