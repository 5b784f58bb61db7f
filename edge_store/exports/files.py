"""Exports that are one file, written from its beginning to its end: each result is some bytes."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from edge_store.errors import InvalidRequest
from edge_store.exports.kinds import Fetched, Job, Skipped
from edge_store.exports.mark import Mark, be_alone, private, sync_folder
from edge_store.exports.pages import Page
from edge_store.sqlite import Connection

__all__ = ["STDOUT", "FileExport"]

STDOUT = "-"
MARK_S = 1.0  # between two marks: what a kill lets be done again
Fetch = Callable[[Connection, dict[str, Any]], Fetched]


class FileExport:
    """``encode`` makes the bytes of a row, or raises ``Skipped``."""

    def __init__(
        self,
        job: Job,
        mark: Mark,
        fetch: Fetch,
        encode: Callable[[Any], bytes],
        header: bytes = b"",
    ) -> None:
        """Raises ``InvalidRequest``: the file is there already, or not as far as the mark says."""
        self.fetch = fetch
        self._encode = encode
        self._target = job.target
        self._is_stdout = job.target == STDOUT
        self._file = _stdout() if self._is_stdout else _opened(job, mark)
        self._length = mark.offset
        self._synced_at = time.monotonic()
        self._header = header

    def begin(self) -> None:
        """Cut it back to the mark; a new one begins with its header."""
        if not self._is_stdout and Path(self._target).is_file():  # and no device
            self._file.truncate(self._length)
            self._file.seek(self._length)
        if not self._length:
            self._put(self._header)

    def _put(self, some: bytes) -> None:
        self._file.write(some)
        self._length += len(some)

    def write(self, page: Page, skipped: Counter[str]) -> int:
        """In their order."""
        rows = 0
        for row in page.rows:
            try:
                self._put(self._encode(row))
                rows += 1
            except Skipped as exc:
                skipped[str(exc)] += 1
        return rows

    def is_due(self) -> bool:
        """After a while."""
        return time.monotonic() - self._synced_at >= MARK_S

    def sync(self) -> int:
        """Flush it to the disk."""
        self._file.flush()
        if not self._is_stdout:
            os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()
        return self._length

    def close(self) -> None:
        """Standard output stays open: it is not ours."""
        if not self._is_stdout:
            self._file.close()


def _stdout() -> BinaryIO:
    sys.stdout.flush()
    return sys.stdout.buffer


def _opened(job: Job, mark: Mark) -> BinaryIO:
    path = Path(job.target)
    size = path.stat().st_size if path.is_file() else -1
    if size < mark.offset and mark.offset:
        there = f"has {size} bytes" if size >= 0 else "is not there"
        raise InvalidRequest(
            f"{path} {there}, and the export came to byte {mark.offset} of it",
            hint="bring the file back, or begin anew with --force",
        )
    try:
        file = os.fdopen(private(path, os.O_WRONLY | os.O_CREAT), "wb")  # which cuts nothing
    except IsADirectoryError as exc:
        raise InvalidRequest(f"{path} is a folder", hint="name a file in it") from exc
    try:
        be_alone(file.fileno(), path)
        if not mark.offset:
            sync_folder(path.parent)
    except BaseException:
        file.close()
        raise
    return file
