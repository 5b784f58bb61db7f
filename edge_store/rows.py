"""Result ⇄ row, and the digest of a row. Pure functions; the only place that knows the column
order.

A record's field order is the column order, so a row is a tuple of the record's values. The digest
is taken over those values exactly as SQLite stores them, so that it can be taken again from a file.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from edge_store.blobs import Part, joined
from edge_store.bodies import with_text, without_text
from edge_store.result import Content, JsonState, Operation, Output, Recorded, Result, Status
from edge_store.sql import sql, sql_of_rows
from edge_store.sqlite import Connection, driver

__all__ = [
    "NAMES",
    "OUTPUT_COLUMNS",
    "RESULT_COLUMNS",
    "SHAPES",
    "Row",
    "Shape",
    "content_digest",
    "content_function",
    "digest_at",
    "digest_function",
    "insert_blobs",
    "insert_rows",
    "load_recorded",
    "row_digest",
    "salvaged",
    "to_row",
    "whole_body",
]

NESTED = ("outputs", "content")
RESULT_FIELDS = tuple(f for f in Result.__struct_fields__ if f not in NESTED)
RESULT_COLUMNS = ("seq", "timeline", *RESULT_FIELDS, "digest")
OUTPUT_COLUMNS = ("seq", *Output.__struct_fields__)
NO_OUTPUT = ((None,) * len(OUTPUT_COLUMNS),)
RESULT_JSON_FIELDS = ("params", "metadata", "privacy")
OUTPUT_JSON_FIELDS = ("tool_calls", "output_json")
INTEGER_BOUND = 2**63
ROWS_PER_STATEMENT = (32, 8, 2, 1)
COPIED_BYTES_MAX = 4 * 1024 * 1024

# The booleans among the columns: stored, and digested, as 0 and 1.
CLOCK_SYNCED = RESULT_COLUMNS.index("clock_synced")
STREAM = RESULT_COLUMNS.index("stream")
OUTPUT_BOOLEANS = tuple(
    1 + Output.__struct_fields__.index(name) for name in ("schema_valid", "constraint_holds")
)  # behind seq

NAMES = (Operation, Status, JsonState)  # bound as the text that they are
for names in NAMES:
    driver.register_adapter(names, str.__str__)

encode_into = msgspec.msgpack.Encoder().encode_into


class Scratch(threading.local):
    """Where each thread encodes what it hashes: to grow one buffer again and again would take a
    fifth of the time of a digest. It becomes as small as the last value.
    """

    def __init__(self) -> None:
        self.encoded = bytearray()


SCRATCH = Scratch()


class Row(msgspec.Struct, frozen=True, gc=False):
    """What the INSERTs take, and the digest that the commit carries on, which is one of the bodies
    as they were sent.
    """

    result: tuple[Any, ...]
    outputs: list[tuple[Any, ...]]
    content: tuple[Any, ...]
    digest: bytes
    blobs: tuple[Part, ...]


def content_digest(content: Sequence[Any]) -> bytes:
    """SHA-256 of the bodies (``input_text``, ``request_body``, ``response_body``): outlives them in
    ``deletions`` when retention expires them.
    """
    encoded = SCRATCH.encoded
    encode_into(content, encoded)
    return sha256(encoded).digest()


def row_digest(result: Sequence[Any], outputs: Sequence[Sequence[Any]], content: bytes) -> bytes:
    """SHA-256 of one result: its columns from ``seq`` to before ``digest``, its outputs' columns in
    the order of their index, or as many NULLs where it has none, and the digest of its content; all
    in one row, as a join gives them.
    """
    values = [*result]
    for output in outputs or NO_OUTPUT:
        values += output
    values.append(content)
    return content_digest(values)


def digest_function() -> Callable[..., bytes]:
    """``content_digest`` of its arguments; ``row_digest``, where that is the last of them. For one
    thread, and short: SQLite calls it twice a row.
    """
    encoded = bytearray()

    def digest_of(*values: Any) -> bytes:
        encode_into(values, encoded)
        return sha256(encoded).digest()

    return digest_of


def content_function() -> Callable[..., bytes]:
    """``content_digest`` of a row of ``requests`` with the text that was taken out of it, as
    ``digest_function``. None that holds where no text was ever taken out.
    """
    encoded = bytearray()

    def digest_of(
        asked: str | None, sent: bytes, got: bytes, place: int | None, text: str | None
    ) -> bytes:
        if place is not None and place < 0:  # SQL counts otherwise from there
            return b""
        encode_into((asked, sent, with_text(got, place, text)), encoded)
        return sha256(encoded).digest()

    return digest_of


def to_row(seq: int, timeline: str, result: Result) -> Row:
    """The values to insert.

    Raises:
        UnicodeEncodeError, OverflowError: a text or number that cannot be stored (see
        ``salvaged``).
    """
    values, choices = _values(seq, timeline, result)
    content = result.content
    digest = row_digest(values, choices, content_digest(msgspec.structs.astuple(content)))
    body, blobs = content.split_body
    stored = (seq, content.input_text, body, *_without_text(result))
    return Row((*values, digest), choices, stored, digest, blobs)


def digest_at(seq: int, timeline: str, result: Result) -> bytes:
    """The digest of a result as ``to_row`` has it there; raises as that does."""
    values, choices = _values(seq, timeline, result)
    return row_digest(values, choices, content_digest(msgspec.structs.astuple(result.content)))


def _values(seq: int, timeline: str, result: Result) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Of its row up to the digest, and of its outputs' rows, as SQLite stores them."""
    values = [seq, timeline, *msgspec.structs.astuple(result)]
    outputs = values[-2]
    del values[-2:]
    values[CLOCK_SYNCED] = int(values[CLOCK_SYNCED])
    values[STREAM] = int(values[STREAM])
    choices = []
    for output in outputs:
        choice = [seq, *msgspec.structs.astuple(output)]
        for place in OUTPUT_BOOLEANS:
            if choice[place] is not None:
                choice[place] = int(choice[place])
        choices.append(tuple(choice))
    return values, choices


def _without_text(result: Result) -> tuple[bytes, int | None]:
    """The response's bytes without the text of the first output, which has a row of its own. In a
    stream it is in pieces.
    """
    body = result.content.response_body
    if result.stream or not result.outputs or result.outputs[0].choice_index:
        return body, None
    return without_text(body, result.outputs[0].output_text)


class Shape(NamedTuple):
    """Which columns of an INSERT are bound for each row, and which once for all rows of a
    statement, as they were alike in every statement so far: boot, endpoint, model, most NULLs. A
    column that differed once stays apart: a statement for each combination would be compiled again
    and again.
    """

    places: tuple[int, ...]  # of those that differ
    different: Callable[[Sequence[Any]], tuple[Any, ...]]  # the values of a row there
    alike: Callable[[Sequence[Any]], tuple[Any, ...]]  # and at all others, in order

    @classmethod
    def of(cls, block: str, rows: Sequence[Sequence[Any]]) -> "Shape":
        """For one statement of these rows, with the INSERT of that name."""
        first = rows[0]
        shape = SHAPES.get(block) or cls._with((0,), len(first))
        alike = shape.alike(first)
        for row in rows:
            if shape.alike(row) != alike:
                others = {n for n, value in enumerate(row) if value != first[n]}
                shape = cls._with(others.union(shape.places), len(first))
                alike = shape.alike(first)
        SHAPES[block] = shape
        return shape

    @classmethod
    def _with(cls, places: Collection[int], width: int) -> "Shape":
        others = [n for n in range(width) if n not in places]
        return cls(tuple(sorted(places)), _picker(sorted(places)), _picker(others))

    @classmethod
    def of_all(cls, width: int) -> "Shape":
        """Every column is bound for each row."""
        return cls._with(range(width), width)


SHAPES: dict[str, Shape] = {}  # by INSERT, of this process


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    if places:
        (place,) = places
        return lambda row: (row[place],)
    return lambda _row: ()


def insert_rows(connection: Connection, rows: Sequence[Row]) -> None:
    """The INSERTs of a batch, many rows to a statement.

    SQLite gives the interpreter up at each statement's step, and a busy event loop lets it wait for
    its return: a batch of 64 rows takes 6 steps so, and 192 row by row.
    """
    contents = [row.content for row in rows]
    is_small = (
        sum(len(sent) + len(got) for _seq, _text, sent, got, _place in contents) < COPIED_BYTES_MAX
    )
    sizes = ROWS_PER_STATEMENT if is_small else (1,)  # values are copied to be bound
    _insert(connection, "insert_result", [row.result for row in rows], sizes)
    _insert(connection, "insert_output", [o for row in rows for o in row.outputs], sizes)
    _insert(connection, "insert_content", contents, sizes)
    for row in rows:
        if row.blobs:
            insert_blobs(connection, "insert_request_blob", row.content[0], row.blobs)


def insert_blobs(
    connection: Connection, block: str, owner: int | str, parts: Sequence[Part]
) -> None:
    """Store what was taken out of a body, unless it is there already, and by ``block`` where it
    belongs in the body of ``owner``.
    """
    for place, part in enumerate(parts):
        blob = {"sha256": part.sha256, "media_type": part.media_type, "bytes": part.data}
        connection.execute(sql("insert_blob"), blob)
        reference = (owner, place, part.offset, int(part.is_escaped), part.sha256)
        connection.execute(sql(block), reference)


def _insert(
    connection: Connection, block: str, rows: Sequence[tuple[Any, ...]], sizes: Sequence[int]
) -> None:
    done = 0
    for size in sizes:
        while len(rows) - done >= size:
            some = rows[done : done + size]
            shape = Shape.of(block, some)
            values = (*shape.alike(some[0]), *chain.from_iterable(map(shape.different, some)))
            connection.execute(sql_of_rows(block, size, shape.places), values)
            done += size


def salvaged(result: Result, connection: Connection, cause: Exception) -> Result:
    """The same result with what cannot be stored escaped or dropped, and an error that says so."""
    changed = {
        **_salvage_fields(result, RESULT_FIELDS, RESULT_JSON_FIELDS, connection),
        "outputs": tuple(
            msgspec.structs.replace(
                output,
                **_salvage_fields(output, Output.__struct_fields__, OUTPUT_JSON_FIELDS, connection),
            )
            for output in result.outputs
        ),
        "content": msgspec.structs.replace(
            result.content,
            **_salvage_fields(result.content, Content.__struct_fields__, (), connection),
        ),
    }
    changed.setdefault("error_type", result.error_type or "field_not_storable")
    changed.setdefault(
        "error_message", result.error_message or f"stored with a field escaped or dropped: {cause}"
    )
    return msgspec.structs.replace(result, **changed)


def _salvage_fields(
    record: msgspec.Struct,
    fields: Sequence[str],
    json_fields: Sequence[str],
    connection: Connection,
) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name in fields:
        value = getattr(record, name)
        if isinstance(value, str):
            escaped = value.encode("utf-8", "backslashreplace").decode("utf-8")
            if name in json_fields and not _is_json(escaped, connection):
                changed[name] = "{}" if name == "params" else None
            elif escaped != value:
                changed[name] = escaped
        elif isinstance(value, int) and not -INTEGER_BOUND <= value < INTEGER_BOUND:
            changed[name] = None
    return changed


def _is_json(text: str, connection: Connection) -> bool:
    (valid,) = connection.execute(sql("is_json"), (text,)).fetchone()
    return bool(valid)


def load_recorded(
    connection: Connection, cursor: Any, *, with_content: bool = True
) -> Iterator[Recorded]:
    """Each row that ``cursor`` (a ``SELECT * FROM results …``) yields, with its outputs, read one
    by one.

    The content is empty where retention has expired it, and ``with_content=False`` leaves it in the
    file: bodies are the bulk of a result.
    """
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        outputs = _rows(connection, "select_outputs", row["seq"])
        content = _rows(connection, "select_content", row["seq"]) if with_content else []
        bodies = content[0] if content else None
        if bodies is not None:
            if bodies["has_blobs"]:
                bodies["request_body"] = whole_body(connection, row["seq"], bodies["request_body"])
            text = outputs[0]["output_text"] if outputs and not outputs[0]["choice_index"] else None
            place = bodies.get("output_at")  # an older file has none
            bodies["response_body"] = with_text(bodies["response_body"], place, text)
        yield _recorded(row, outputs, bodies)


def whole_body(connection: Connection, seq: int, stored: bytes) -> bytes:
    """The request's body as it was sent."""
    return joined(stored, connection.execute(sql("select_blobs"), {"seq": seq}))


def _rows(connection: Connection, block: str, seq: int) -> list[dict[str, Any]]:
    cursor = connection.execute(sql(block), {"seq": seq})
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, values, strict=True)) for values in cursor]


def _recorded(
    row: dict[str, Any], outputs: list[dict[str, Any]], content: dict[str, Any] | None
) -> Recorded:
    fields = {name: row[name] for name in RESULT_FIELDS}
    choices = [{n: o[n] for n in Output.__struct_fields__} for o in outputs]
    bodies = content or {"input_text": None, "request_body": b"", "response_body": b""}
    return msgspec.convert(
        {
            "seq": row["seq"],
            "timeline": row["timeline"],
            "digest": row["digest"],
            "result": {
                **fields,
                "outputs": choices,
                "content": {n: bodies[n] for n in Content.__struct_fields__},
            },
        },
        Recorded,
        strict=False,  # SQLite gives 0 and 1 for booleans
        builtin_types=(bytes,),
    )
