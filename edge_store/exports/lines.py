"""A result as one line of JSON, with all that its box says of it: what ``import`` takes back.

A column that holds JSON stands as JSON where every reader takes it, else as a string that holds its
text: either way the text comes back as it was. Bodies are strings where they are UTF-8, else base64
under a name of their own.
"""

import json
from collections.abc import Generator
from contextlib import suppress
from types import GenericAlias
from typing import Any, NamedTuple

import msgspec

from edge_store.result import Content, Output, Recorded, Result, Said
from edge_store.rows import digest_at, load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["FORMAT", "LineFields", "LineOf", "line_of", "said_of"]

FORMAT = "edge-store/1"
JSON_COLUMNS = ("params", "metadata", "privacy", "tool_calls", "output_json", "value")
NESTING_MAX = 100
SHOWN_CHARS = 60
DIGEST_CHARS = 64
BODIES = ("request_body", "response_body")
NESTED = ("outputs", "content")

Json = dict[str, Any]


def said_of(connection: Connection, result_id: str) -> Said:
    """Reads it."""
    return Said(
        id=result_id,
        annotations=_rows(connection, "select_export_annotations", result_id),
        repairs=_rows(connection, "select_export_repairs", result_id),
    )


def _rows(connection: Connection, block: str, result_id: str) -> tuple[Json, ...]:
    cursor = connection.execute(sql(block), {"id": result_id})
    names = [column[0] for column in cursor.description]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor)


def line_of(recorded: Recorded, said: Said, *, bodies: bool) -> bytes:
    """The line, with its end."""
    result = recorded.result
    line: Json = {"format": FORMAT, "seq": recorded.seq, "timeline": recorded.timeline}
    line |= _shown(result)
    line["digest"] = recorded.digest.hex()
    line["outputs"] = [_shown(output) for output in result.outputs]
    line["input_text"] = result.content.input_text
    if bodies:
        for name in BODIES:
            line |= _body(name, getattr(result.content, name))
    for name in ("annotations", "repairs"):
        if rows := getattr(said, name):
            line[name] = [_with_json(row) for row in rows]
    return msgspec.json.encode(line) + b"\n"


def _shown(record: Result | Output) -> Json:
    fields = msgspec.structs.asdict(record)
    for name in NESTED:
        fields.pop(name, None)
    return _with_json(fields)


def _with_json(row: Json) -> Json:
    """The same, changed."""
    for name in JSON_COLUMNS:
        if (text := row.get(name)) is not None:
            row[name] = _json(text)
    return row


def _json(text: str) -> Any:
    """As JSON, where that is sure to be read; an array or an object, as a string is a text."""
    if text[:1] not in "{[" or "\n" in text or "\r" in text or "\\u" in text:
        return text
    if text.count("[") + text.count("{") > NESTING_MAX:  # it may be too deep
        return text
    return msgspec.Raw(text.encode())


def _body(name: str, body: bytes) -> Json:
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": body}


def _text(raw: msgspec.Raw) -> str | None:
    """What ``_json`` was given."""
    text = bytes(raw)
    if text == b"null":
        return None
    if not text.startswith(b'"'):
        return text.decode()
    found = msgspec.json.decode(text, type=str)
    with suppress(RecursionError):  # as deep as only SQLite reads it
        json.loads(found, parse_constant=_refused)
    return found


def _column(raw: msgspec.Raw, name: str) -> str | None:
    try:
        return _text(raw)
    except ValueError as exc:
        text = bytes(raw).decode(errors="replace")[:SHOWN_CHARS]
        raise ValueError(f"its {name}, {text}, is no JSON: {exc}") from exc


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _reader(record: type[msgspec.Struct], name: str, *more: tuple[str, Any, Any]) -> Any:
    """The type of what ``_shown`` makes of such a record."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(record):
        if field.name in NESTED:
            continue
        if field.name in JSON_COLUMNS:
            fields.append((field.name, msgspec.Raw, msgspec.Raw(b"null")))
        elif field.required:
            fields.append((field.name, field.type))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(name, [*fields, *more], kw_only=True, frozen=True)


OutputOf = _reader(Output, "OutputOf")


class AnnotationOf(msgspec.Struct, frozen=True):
    """A row of ``annotations``."""

    at: int
    kind: str
    value: msgspec.Raw


class RepairOf(msgspec.Struct, frozen=True):
    """A row of ``repairs``."""

    at: int
    choice_index: int
    json_state: str
    repairer: str
    output_json: msgspec.Raw = msgspec.Raw(b"null")
    schema_valid: int | None = None
    schema_error: str | None = None
    repair_log: str | None = None


LineFields = _reader(
    Result,
    "LineFields",
    ("format", str, ""),
    ("seq", int, 0),
    ("timeline", str, ""),
    ("digest", str | None, None),
    ("outputs", GenericAlias(list, OutputOf), msgspec.field(default_factory=list)),
    ("input_text", str | None, None),
    ("request_body", str | None, None),
    ("response_body", str | None, None),
    ("request_body_base64", bytes, b""),
    ("response_body_base64", bytes, b""),
    ("annotations", list[AnnotationOf], msgspec.field(default_factory=list)),
    ("repairs", list[RepairOf], msgspec.field(default_factory=list)),
)


class Line(NamedTuple):
    """A result, what was said of it later, and whether a box has recorded it so, by its digest."""

    result: Result
    said: Said
    is_recorded: bool


class LineOf:
    """Reads lines back."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(LineFields)

    def __call__(self, line: bytes) -> Line:
        """Raises ``ValueError``: it is not a result's line, or was changed since it was written."""
        found = self._decoder.decode(line)
        if found.format != FORMAT:
            raise ValueError(f"its format is {found.format!r}, not {FORMAT!r}")
        content = Content(
            input_text=found.input_text,
            **{name: _body_of(found, name) for name in BODIES},
        )
        outputs = tuple(Output(**_read(each, Output)) for each in found.outputs)
        fields = _read(found, Result)
        fields["params"] = fields["params"] or "{}"
        result = Result(**fields, outputs=outputs, content=content)
        _require_unchanged(found, result)
        said = Said(
            id=result.id,
            annotations=tuple(map(_row, found.annotations)),
            repairs=tuple(map(_row, found.repairs)),
        )
        return Line(result, said, found.digest is not None)


def _require_unchanged(found: Any, result: Result) -> None:
    """Raises ``ValueError``: its digest is another's. It is not known to fit of a line without
    bodies: they are part of it, and may be left out, or have expired.
    """
    if found.digest is None or not any(getattr(result.content, name) for name in BODIES):
        return
    if digest_at(found.seq, found.timeline, result).hex() != found.digest:
        raise ValueError(
            f"its digest, {found.digest[:DIGEST_CHARS]!r}, does not fit it: it was changed since "
            "it was exported; to take it so, take `digest` out of it"
        )


def _read(found: Any, record: type[msgspec.Struct]) -> Json:
    return {
        name: _column(getattr(found, name), name) if name in JSON_COLUMNS else getattr(found, name)
        for name in record.__struct_fields__
        if name not in NESTED
    }


def _row(found: msgspec.Struct) -> Json:
    return {
        name: _column(value, name) if name in JSON_COLUMNS else value
        for name, value in msgspec.structs.asdict(found).items()
    }


def _body_of(found: Any, name: str) -> bytes:
    text: str | None = getattr(found, name)
    body: bytes = getattr(found, f"{name}_base64")
    return body if text is None else text.encode()


def recorded_rows(
    connection: Connection, statement: str, values: Json
) -> Generator[tuple[int, int, tuple[Recorded, Said]]]:
    """Of each result of a span its seq, about its bytes, and it with what was said of it."""
    span = {"after": values["after"], "upto": values["upto"]}
    spoken_of = {name for (name,) in connection.execute(sql("select_export_spoken_of"), span)}
    for recorded in load_recorded(connection, connection.execute(statement, values)):
        content = recorded.result.content
        size = 1024 + len(content.request_body) + len(content.response_body)
        size += len(content.input_text or "")
        size += sum(len(output.output_text) for output in recorded.result.outputs)
        name = recorded.result.id
        said = said_of(connection, name) if name in spoken_of else Said(id=name)
        yield recorded.seq, size, (recorded, said)
