"""Server-sent events out of bytes, however the bytes were cut (html.spec.whatwg.org, 9.2)."""

import re
from collections.abc import Iterator

__all__ = ["EventSplitter"]

# A blank line ends an event; a line ends with LF, CRLF or CR. A CR at the very end of what has come
# may be half of a CRLF, so it ends nothing yet.
BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z))(?:\r\n|\n|\r(?!\n|\Z))")
BLANK_BYTES_MAX = 4


class EventSplitter:
    """Collects bytes and gives whole events, each with the blank line that ends it."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that ``chunk`` completes."""
        # what most servers send: one event at a time, written whole
        is_whole = 0 <= chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk
        if is_whole and not self._pending:
            return iter((chunk,))
        return self._search(chunk)

    def _search(self, chunk: bytes) -> Iterator[bytes]:
        # an event that never ends must not be searched again for each of its pieces
        searched = max(len(self._pending) - BLANK_BYTES_MAX, 0)
        self._pending += chunk
        start = 0
        for blank in BLANK.finditer(bytes(self._pending[searched:])):
            end = searched + blank.end()
            yield bytes(self._pending[start:end])
            start = end
        del self._pending[:start]

    def end(self) -> Iterator[bytes]:
        """Nothing: an event without its blank line is none."""
        return iter(())

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return bytes(self._pending)

    @staticmethod
    def data_of(event: bytes) -> bytes | None:
        """The event's data lines joined; None for a comment or an event without data."""
        is_one_line = event.find(b"\n") == len(event) - 2 and b"\r" not in event
        if is_one_line and event.startswith(b"data: "):
            return event[6:-2]
        lines = [
            line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
        ]
        return b"\n".join(lines) if lines else None

    @staticmethod
    def comment(text: str) -> bytes:
        """An event that clients skip."""
        return f": {text}\n\n".encode()
