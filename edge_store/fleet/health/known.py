"""What a fleet's folder remembers of each box between two looks at its health: one JSON line a box,
in order of device id, in ``.pulled/health.jsonl``. It is read and written as a stream, beside each
other, so that no fleet is too large; the new file takes the old one's place at the end.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from edge_store.errors import AlreadyRunning, StoreError
from edge_store.fleet.copies import FOLDER
from edge_store.fleet.health.facts import Facts
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head
from edge_store.result import Record

__all__ = ["Known", "Memory", "remembering"]

NAME = "health.jsonl"
MODE = 0o640


class Known(Record, frozen=True, kw_only=True):
    """Of one box, whose head is in ``location``. ``version``: what the store knows that by.
    ``behind_since``: when that was first seen ahead of the copy here (UTC ms). ``told``: what is
    wrong, as far as people know.
    """

    device_id: DeviceId
    location: str = ""
    version: str | None = None
    head: Head | None = None
    facts: Facts | None = None
    behind_since: int | None = None
    told: tuple[str, ...] = ()


class Memory:
    """Asked and given in order of device id. Without files it remembers nothing.

    ``looks_at`` tells whether a box is looked at now: others stay as they are known, and what is
    wrong with them is in ``others_told``.
    """

    def __init__(self, old: BinaryIO | None = None, new: BinaryIO | None = None) -> None:
        self._lines: Iterator[bytes] = iter(old or ())
        self._new = new
        self._next = self._read()
        self.looks_at: Callable[[Known], bool] = lambda _known: True
        self.others_told: set[str] = set()

    def recall(self, device_id: DeviceId) -> Known | None:
        """What is known of it; once. Those before it that are looked at are gone, and forgotten."""
        while self._next is not None and self._next.device_id < device_id:
            self._pass_over()
        found = self._next
        if found is None or found.device_id != device_id:
            return None
        self._next = self._read()
        return found

    def finish(self) -> None:
        """No other box is asked for."""
        while self._next is not None:
            self._pass_over()

    def _pass_over(self) -> None:
        assert self._next is not None
        if not self.looks_at(self._next):
            self.others_told.update(self._next.told)
            self.keep(self._next)
        self._next = self._read()

    def keep(self, known: Known) -> None:
        """For the next time."""
        if self._new is not None:
            self._new.write(msgspec.json.encode(known) + b"\n")

    def _read(self) -> Known | None:
        for line in self._lines:
            try:
                return msgspec.json.decode(line, type=Known)
            except msgspec.DecodeError:  # of another version: it is found out again
                continue
        return None


@contextmanager
def remembering(folder: Path | None) -> Iterator[Memory]:
    """The memory of ``folder``; what was kept counts once the body ends without an error.

    Raises:
        AlreadyRunning: another look at this fleet's health runs.
        StoreError: the folder cannot be written.
    """
    if folder is None:
        yield Memory()
        return
    path = folder / FOLDER / NAME
    part = path.with_suffix(".part")
    with ExitStack() as opened:
        try:
            path.parent.mkdir(exist_ok=True, mode=0o750)
            new = opened.enter_context(os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, MODE), "wb"))
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.truncate()
            old = opened.enter_context(path.open("rb")) if path.exists() else None
        except BlockingIOError:
            raise AlreadyRunning(
                f"another `fleet health` works in {folder}", hint="wait for it"
            ) from None
        except OSError as exc:
            raise StoreError(
                f"{path.parent} cannot be written: {exc.strerror}", hint="check its owner and mode"
            ) from exc
        yield Memory(old, new)
        new.flush()
        part.replace(path)
