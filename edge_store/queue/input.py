"""The input file of a batch: one request a line. Read in pieces, never whole.

A line is ``{"custom_id": …, "method": "POST", "url": …, "body": {…}}``, as OpenAI has it.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from edge_store.errors import StoreError
from edge_store.queue.records import InputFault

__all__ = ["FAULTS_SHOWN", "Checked", "Limits", "Line", "check", "lines_of", "next_lines", "reread"]

FAULTS_SHOWN = 100
LINES_PER_READ, BYTES_PER_READ = 256, 4 * 1024 * 1024
CUSTOM_ID_CHARS_MAX = 512
LINE_SPARE_BYTES = 4096  # of a line beside its body


class Limits(NamedTuple):
    """What a file may have. ``body_bytes`` is ``server.body_bytes_max``."""

    lines: int
    body_bytes: int

    @property
    def line_bytes(self) -> int:
        """The longest line."""
        return self.body_bytes + LINE_SPARE_BYTES


class Line(NamedTuple):
    """A line that was found sound; ``offset`` and ``length`` say where it is."""

    custom_id: str
    body: bytes
    offset: int
    length: int


class Checked(NamedTuple):
    """What a file holds, or what is wrong with it."""

    lines: int
    model: str | None  # of the first line
    faults: tuple[InputFault, ...]
    names: Mapping[str, int]  # of each line its `custom_id` and its number


class Body(msgspec.Struct, frozen=True):
    """What is looked at of a request."""

    model: Any = None
    stream: Any = None
    store: Any = None


class Full(msgspec.Struct, frozen=True):
    """A line for its check: each fault is told by itself."""

    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class Brief(msgspec.Struct, frozen=True):
    """A line that was checked."""

    custom_id: str
    body: msgspec.Raw


decode_full = msgspec.json.Decoder(Full).decode
decode_brief = msgspec.json.Decoder(Brief).decode
decode_body = msgspec.json.Decoder(Body).decode


def check(path: Path, endpoint: str, limits: Limits) -> Checked:
    """Read a whole file. Stops at ``FAULTS_SHOWN`` faults.

    Raises:
        OSError: it cannot be read.
    """
    faults: list[InputFault] = []
    first_lines: dict[str, int] = {}
    lines, model = 0, None
    with path.open("rb") as file:
        for number, (_, text) in enumerate(_texts(file, limits.line_bytes), 1):
            if not text.strip():
                continue
            lines += 1
            if lines > limits.lines:
                faults.append(_too_many(limits.lines))
                break
            found = _check_line(text, endpoint, limits)
            model = model or found.model
            fault = found.fault
            if found.custom_id is not None:
                first = first_lines.setdefault(found.custom_id, number)
                if first != number and fault is None:
                    message = f"line {first} has the same `custom_id`"
                    fault = ("duplicate_custom_id", message, "custom_id")
            if fault is not None:
                code, message, param = fault
                faults.append(InputFault(code=code, message=message, line=number, param=param))
                if len(faults) == FAULTS_SHOWN:
                    break
    if not lines:
        faults.append(InputFault(code="empty_file", message="the file has no lines"))
    return Checked(lines, model, tuple(faults), first_lines)


def lines_of(path: Path, limits: Limits) -> Iterator[Line]:
    """The lines of a file that was checked.

    Raises:
        OSError, StoreError: it is not the file that was checked.
    """
    with path.open("rb") as file:
        for offset, text in _texts(file, limits.line_bytes):
            if text.strip():
                brief = _checked(text)
                yield Line(brief.custom_id, bytes(brief.body), offset, len(text))


def next_lines(lines: Iterator[Line]) -> list[Line]:
    """The next lines: so many, or so many bytes of them, but one at least."""
    piece: list[Line] = []
    size = 0
    for line in islice(lines, LINES_PER_READ):
        piece.append(line)
        size += len(line.body)
        if size > BYTES_PER_READ:
            break
    return piece


def reread(path: Path, line: Line) -> bytes:
    """The body of a line again; empty where it was forgotten.

    Raises:
        OSError, StoreError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(line.offset)
        text = file.read(line.length)
    return b"" if text.isspace() else bytes(_checked(text).body)


def _checked(text: bytes) -> Brief:
    try:
        return decode_brief(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise StoreError("an input file has changed since it was checked") from exc


class _Found(NamedTuple):
    """What a line has, and what is wrong with it: code, message and the field."""

    custom_id: str | None = None
    model: str | None = None
    fault: tuple[str, str, str | None] | None = None


def _texts(file: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset; of one that is too long its beginning, as long as a line may be
    and one byte more.
    """
    offset = 0
    while text := file.readline(bytes_max + 2):  # a byte more, and the end of the line
        begins_at = offset
        offset += len(text)
        end = text
        while not end.endswith(b"\n") and len(end) == bytes_max + 2:
            end = file.readline(bytes_max + 2)
            offset += len(end)
            if not end:
                break
        yield begins_at, text.removesuffix(b"\n")


def _check_line(text: bytes, endpoint: str, limits: Limits) -> _Found:
    if len(text) > limits.line_bytes:
        message = f"the line has over {limits.line_bytes} bytes"
        return _Found(fault=("line_too_large", message, None))
    try:
        line = decode_full(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _Found(fault=("invalid_json_line", f"the line is not a JSON object: {exc}", None))
    custom_id = line.custom_id
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_CHARS_MAX:
        message = f"`custom_id` must be a text of 1 to {CUSTOM_ID_CHARS_MAX} characters"
        return _Found(fault=("invalid_custom_id", message, "custom_id"))
    fault = model = None
    if line.method != "POST":
        fault = ("invalid_method", f"`method` = {line.method!r} is not POST", "method")
    elif line.url != endpoint:
        message = f"`url` = {line.url!r} is not the endpoint of the batch, {endpoint}"
        fault = ("mismatched_url", message, "url")
    else:
        model, fault = _check_body(line.body)
    return _Found(custom_id, model, fault)


def _check_body(raw: msgspec.Raw) -> tuple[str | None, tuple[str, str, str] | None]:
    """The model of a body, and what is wrong with it."""
    try:
        body = decode_body(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return None, ("invalid_body", f"`body` is not a JSON object: {exc}", "body")
    if body.stream:
        return None, ("invalid_body", "the answer of a line cannot be a stream", "body.stream")
    if body.store is False:
        message = "with `store` = false there is nothing to make the output from"
        return None, ("invalid_body", message, "body.store")
    return body.model if isinstance(body.model, str) else None, None


def _too_many(lines_max: int) -> InputFault:
    return InputFault(code="too_many_lines", message=f"the file has more than {lines_max} lines")
