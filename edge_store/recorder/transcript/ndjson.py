"""Lines of JSON out of bytes, however the bytes were cut (github.com/ndjson/ndjson-spec)."""

from collections.abc import Iterator

__all__ = ["LineSplitter"]


class LineSplitter:
    """Collects bytes and gives whole lines, each with its newline."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that ``chunk`` completes."""
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            whole = bytes(self._pending) + head
            self._pending = bytearray(tail)
            for line in whole.split(b"\n"):
                yield line + b"\n"
        else:
            self._pending += chunk

    def end(self) -> Iterator[bytes]:
        """A last line that came without its newline."""
        if self._pending:
            last, self._pending = bytes(self._pending), bytearray()
            yield last

    def rest(self) -> bytes:
        """What came after the last whole line."""
        return bytes(self._pending)

    @staticmethod
    def data_of(line: bytes) -> bytes | None:
        """The line's JSON; None for a blank line."""
        return line.strip() or None

    @staticmethod
    def comment(_text: str) -> bytes:
        """Nothing: these lines have no comments."""
        return b""
