"""What must hold for any bytes at all: of the parsers of each wire protocol, and of JSON repair.

Each target takes one input and raises when something does not hold. `scripts/fuzz` looks for such
inputs; tests/property/test_fuzz_corpus.py replays those that were kept.

An input of a parser: a character that says how the answer comes, a character that says how it is
cut, the request, a zero byte, the answer. One of the repair: a character of flags, the schema, a
zero byte, the text.
"""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
from support.records import make_result

from edge_store.api.routes import GENERATING
from edge_store.errors import InvalidRequest
from edge_store.jsonrepair.assess import read_text, validated
from edge_store.jsonrepair.protocol import (
    LENGTH_BYTES,
    Assessed,
    Wanted,
    decode_answer,
    decode_job,
    encode_job,
    frame,
)
from edge_store.jsonrepair.strict import parse
from edge_store.recorder.app import _read
from edge_store.recorder.transcript import Asked, Dialect, Garbled, Reading
from edge_store.recorder.transcript.ndjson import LineSplitter
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.result import Content, JsonState, Result
from edge_store.rows import insert_rows, salvaged, to_row
from edge_store.schema import migrate
from edge_store.sqlite import Connection, driver

__all__ = ["CORPUS", "INPUT_BYTES_MAX", "TARGETS", "names_of"]

CORPUS = Path(__file__).parents[1] / "corpus"
INPUT_BYTES_MAX = 4096
REPAIR_BYTES_MAX = 1 << 16  # as repair.input_bytes_max
REPAIR_CPU_S = 2.0  # as repair.deadline_s: what takes longer is killed, and is not at fault
NOTE_BYTES_MAX = 4096
STREAMED, LINES, CUT_OFF = 1, 2, 4  # bits of a parser's first character
TRUNCATED, WITH_SCHEMA = 1, 2  # bits of the repair's


class Overdue(BaseException):
    """The worker would have been killed here."""


def parser(dialect: Dialect, data: bytes) -> None:
    """A request is read or refused; an answer is read alike however it is cut, and can be kept."""
    how, cuts, (request, _, answer) = data[:1], data[1:2], data[2:].partition(b"\0")
    flags, size = (how or b"\0")[0], (cuts or b"\1")[0] or 1
    try:
        asked, sent, _fingerprint = _read(dialect, request, "ours")
    except InvalidRequest:
        return
    engine_sees = msgspec.json.decode(sent)
    assert engine_sees.items() >= dict(asked.splice).items()
    assert not asked.takes_rid or engine_sees["rid"] == "ours"
    if flags & STREAMED:
        kind = LineSplitter if flags & LINES else EventSplitter
        whole = _stream(dialect, asked, kind(), [answer], ended=not flags & CUT_OFF)
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        assert _stream(dialect, asked, kind(), pieces, ended=not flags & CUT_OFF) == whole
        reading = whole[0]
    else:
        reader = dialect.reader(asked)
        with suppress(Garbled):
            reader.body(answer)
        reading = reader.reading()
    _can_be_stored(asked, reading, request, answer)


def _stream(
    dialect: Dialect,
    asked: Asked,
    splitter: EventSplitter | LineSplitter,
    chunks: list[bytes],
    *,
    ended: bool,
) -> tuple[Reading, list[tuple[bytes, bool, bool, bool]], str | None]:
    """What was read, what the reader said after each event, and why it stopped."""
    reader = dialect.reader(asked)
    said: list[tuple[bytes, bool, bool, bool]] = []
    garbled: str | None = None
    try:
        for event in _events(splitter, chunks, ended=ended):
            data = splitter.data_of(event)
            may_end = data is not None and reader.event(data)
            said.append((event, may_end, reader.has_begun, reader.is_usage))
    except Garbled as exc:
        garbled = str(exc)
    else:
        assert b"".join(event for event, *_ in said) + splitter.rest() == b"".join(chunks)
    return reader.reading(), said, garbled


def _events(
    splitter: EventSplitter | LineSplitter, chunks: list[bytes], *, ended: bool
) -> Iterator[bytes]:
    for chunk in chunks:
        yield from splitter.feed(chunk)
    if ended:
        yield from splitter.end()


def _can_be_stored(asked: Asked, reading: Reading, request: bytes, answer: bytes) -> None:
    """The row is taken as it is, or with what cannot be stored escaped or dropped."""
    result = make_result(
        operation=asked.operation,
        request_model=asked.model,
        response_model=reading.response_model,
        params=asked.params,
        metadata=asked.metadata,
        caller_rid=asked.caller_rid,
        user_id=asked.user_id,
        input_tokens=reading.input_tokens,
        output_tokens=reading.output_tokens,
        cached_tokens=reading.cached_tokens,
        reasoning_tokens=reading.reasoning_tokens,
        error_message=reading.error_message,
        outputs=reading.outputs,
        content=Content(input_text=asked.input_text, request_body=request, response_body=answer),
    )
    connection = _memory()
    connection.execute("BEGIN")
    try:
        _insert(connection, result)
    except (ValueError, OverflowError, driver.Error) as exc:  # a stranger's text, as the writer has
        _insert(connection, salvaged(result, connection, exc))
    finally:
        connection.execute("ROLLBACK")


def _insert(connection: Connection, result: Result) -> None:
    connection.execute("SAVEPOINT one")
    try:
        insert_rows(connection, [to_row(1, "timeline", result)])
    except BaseException:
        connection.execute("ROLLBACK TO one")
        raise


@cache
def _memory() -> Connection:
    connection = driver.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def repair(data: bytes) -> None:
    """Any text has an outcome, and what comes out is JSON that can be stored."""
    flags = (data[:1] or b"\0")[0]
    schema, _, text = data[1:].partition(b"\0")
    wanted = Wanted(
        text=text.decode("utf-8", "surrogateescape"),  # a lone surrogate for each byte that is none
        schema=schema.decode("utf-8", "surrogateescape") if flags & WITH_SCHEMA else None,
        is_truncated=bool(flags & TRUNCATED),
    )
    assert decode_job(encode_job(wanted)[LENGTH_BYTES:]) == wanted
    try:
        with deadline(REPAIR_CPU_S):
            found = read_text(wanted, REPAIR_BYTES_MAX)
            _is_an_outcome(wanted, found)
            if wanted.schema is not None:
                held = validated(found, wanted.schema)
                _is_an_outcome(wanted, held)
                assert held.output_json == found.output_json
                assert held.schema_valid is None or found.output_json is not None
    except (Overdue, MemoryError):
        return


def _is_an_outcome(wanted: Wanted, found: Assessed) -> None:
    assert decode_answer(frame(found)[LENGTH_BYTES:]) == found, "the daemon gets it as it is"
    assert found.json_state is not JsonState.TEXT
    has_output = found.json_state in (JsonState.VALID, JsonState.EXTRACTED, JsonState.REPAIRED)
    assert (found.output_json is not None) == has_output
    if wanted.is_truncated:
        assert found.json_state in (JsonState.VALID, JsonState.TRUNCATED)
    for note in (found.repair_log, found.schema_error):
        assert note is None or len(note.encode()) <= NOTE_BYTES_MAX
    if found.output_json is not None:
        assert found.output_json not in ("", '""') or found.json_state is JsonState.VALID
        parse(found.output_json)
        ((is_valid,),) = _memory().execute("SELECT json_valid(?)", (found.output_json,))
        assert is_valid
    if found.json_state is JsonState.REPAIRED:
        assert found.output_json is not None
        assert found.output_json[0] in "{["


@contextmanager
def deadline(cpu_s: float) -> Iterator[None]:
    """Raises ``Overdue`` after this much CPU, even inside a regular expression."""

    def overdue(_number: int, _frame: FrameType | None) -> None:
        raise Overdue

    before = signal.signal(signal.SIGVTALRM, overdue)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _name(endpoint: str) -> str:
    return endpoint.strip("/").replace("/", "_")


TARGETS: Mapping[str, Callable[[bytes], Any]] = {
    **{_name(endpoint): partial(parser, dialect) for endpoint, dialect in GENERATING.items()},
    "repair": repair,
}


def names_of(target: str) -> list[str]:
    """The files of the corpus for one target."""
    return sorted(path.name for path in (CORPUS / target).iterdir())
