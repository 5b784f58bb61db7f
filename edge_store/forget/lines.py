"""Lines of batches in the files on the disk: found by reading, then overwritten where they are.

A file keeps its length and all other lines their places, so that a batch that is under way goes on:
it skips what is blank. What was a line of an output says that it was forgotten, as a file whose
every line is JSON must stay one. The file keeps its name, the SHA-256 of what was uploaded.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import StoreError
from edge_store.forget.choice import Line, NamesUser
from edge_store.queue.files import FOLDER
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["Overwrite", "Span", "find_spans", "overwrite"]

SPANS_MAX = 1024
Wanted = dict[str, set[str]]  # by batch, the names of its lines
FORGOTTEN = b'{"id":"","custom_id":"","response":null,"error":{"code":"forgotten","message":""}}'


class Span(Record, frozen=True, kw_only=True):
    """A line of a file, without its end."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    offset: Annotated[int, Meta(ge=0)]
    length: Annotated[int, Meta(ge=1)]
    is_output: bool


class Overwrite(Record, frozen=True, kw_only=True):
    """Parameters of ``forget.lines``."""

    spans: Annotated[tuple[Span, ...], Meta(max_length=SPANS_MAX)]


class _Input(msgspec.Struct):
    """A line as it was uploaded, whatever it holds."""

    custom_id: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Named(msgspec.Struct):
    custom_id: Any = None


decode_input = msgspec.json.Decoder(_Input).decode
decode_named = msgspec.json.Decoder(_Named).decode


def overwrite(connection: Connection, params: Overwrite) -> int:
    """Write over the lines, and leave a tombstone of each file; how many lines there were.

    Raises:
        StoreError: the disk. It may be repeated.
    """
    (database,) = connection.execute(sql("select_database_path")).fetchone()
    folder = Path(database).with_name(FOLDER)
    done = 0
    spans: dict[str, list[Span]] = defaultdict(list)
    for span in params.spans:
        spans[span.sha256].append(span)
    for sha256, of_file in spans.items():
        try:
            with (folder / sha256).open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                for span in of_file:
                    if span.offset + span.length <= size:
                        file.seek(span.offset)
                        file.write(_filler(span))
                        done += 1
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:  # nobody needs it any more
            continue
        except OSError as exc:
            raise StoreError(
                f"{folder / sha256} cannot be written: {exc.strerror}",
                hint="run it as the daemon's user, or while the daemon runs",
            ) from exc
        connection.execute(sql("note_forgotten_lines"), {"at": now_ms(), "sha256": sha256})
    return done


def _filler(span: Span) -> bytes:
    text = FORGOTTEN if span.is_output and len(FORGOTTEN) <= span.length else b""
    return text.ljust(span.length)


def find_spans(
    connection: Connection, folder: Path, lines: Iterable[Line], names: NamesUser | None
) -> tuple[list[Span], list[Line]]:
    """Where ``lines``, and those of a user, are in the files; and all these lines. A line with no
    result yet is only in a file.

    Raises:
        StoreError: a file or the database cannot be read.
    """
    wanted: Wanted = defaultdict(set)
    for batch_id, custom_id in lines:
        if custom_id is not None:
            wanted[batch_id].add(custom_id)
    with translated("the batches cannot be read"):
        spans = _in_inputs(connection, folder, wanted, names)
        for batch_id, chosen in wanted.items():
            is_wanted = _of_output(chosen)
            of_batch = {"batch_id": batch_id}
            for (sha256,) in connection.execute(sql("select_batch_outputs"), of_batch).fetchall():
                spans += [span for span, *_ in _found(folder, sha256, is_wanted, is_output=True)]
    return spans, [(batch_id, name) for batch_id, chosen in wanted.items() for name in chosen]


def _in_inputs(
    connection: Connection, folder: Path, wanted: Wanted, names: NamesUser | None
) -> list[Span]:
    """Adds to ``wanted`` the lines of the user."""
    batches: dict[str, list[str]] = defaultdict(list)
    for batch_id, sha256 in connection.execute(sql("select_batch_inputs")):
        batches[sha256].append(batch_id)
    spans = []
    for (sha256,) in connection.execute(sql("select_input_files")).fetchall():
        of_file = batches[sha256]
        chosen = {name for batch_id in of_file for name in wanted.get(batch_id, ())}
        if not chosen and names is None:
            continue
        for span, custom_id, is_named in _found(
            folder, sha256, _of_input(chosen, names), is_output=False
        ):
            spans.append(span)
            if is_named and custom_id is not None:
                for batch_id in of_file:
                    wanted[batch_id].add(custom_id)
    return spans


IsWanted = Callable[[bytes], tuple[str | None, bool] | None]


def _of_input(chosen: set[str], names: NamesUser | None) -> IsWanted:
    """Of a line of an input: its name, and whether it is the user's; None where it stays."""

    def is_wanted(text: bytes) -> tuple[str | None, bool] | None:
        try:
            line = decode_input(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return (None, True) if names is not None and names("", text) else None
        custom_id = line.custom_id if isinstance(line.custom_id, str) else None
        if names is not None and names(str(line.url), bytes(line.body)):
            return custom_id, True
        return (custom_id, False) if custom_id in chosen else None

    return is_wanted


def _of_output(chosen: set[str]) -> IsWanted:
    def is_wanted(text: bytes) -> tuple[str | None, bool] | None:
        try:
            custom_id = decode_named(text).custom_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return (custom_id, False) if custom_id in chosen else None

    return is_wanted


def _found(
    folder: Path, sha256: str, is_wanted: IsWanted, *, is_output: bool
) -> Iterator[tuple[Span, str | None, bool]]:
    offset = 0
    try:
        with (folder / sha256).open("rb") as file:
            for text in file:
                line = text.rstrip(b"\n")
                found = is_wanted(line) if line.strip() else None
                if found is not None:
                    span = Span(sha256=sha256, offset=offset, length=len(line), is_output=is_output)
                    yield span, *found
                offset += len(text)
    except FileNotFoundError:  # its file was deleted, and no batch needs it
        return
    except OSError as exc:
        raise StoreError(f"{folder / sha256} cannot be read: {exc.strerror}") from exc
