"""What every source gives: results with the times of then, or why a row is none; and how a result
is made of what a source has.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from edge_store.faults import STEP, UNFIT, refusal_of
from edge_store.ids import BootId, DeviceId, ResultId
from edge_store.result import IMPORTED, Content, JsonState, Operation, Output, Result, Said, Status

__all__ = [
    "FAULTS", "Fault", "Source", "Sourced", "chat_body", "fault", "made", "moment", "named",
    "number", "outputs_of", "require_plausible", "result_id", "shown", "unread",
]  # fmt: skip

CREATED_AT_MAX = 253_402_300_799_999  # the last of the year 9999
ID_TIME_MAX = 2**48 - 1
INTEGER_BOUND = 2**63
SHOWN_CHARS = 60  # of a value
AT_LEAST_0 = ("_tokens", "_ms")  # what is counted or measured
OF_NAMES = ("request_model", "response_model", "engine", "tenant", "user_id")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # not tabs and ends of lines
CHAT = "/v1/chat/completions"

Json = dict[str, Any]
Made = TypeVar("Made", bound=msgspec.Struct)


class Sourced(NamedTuple):
    """A row of the source, by its number, as a result."""

    number: int
    result: Result
    said: Said | None = None


class Fault(NamedTuple):
    """A row that is none, by its number, and why."""

    number: int
    why: str


# what a row can make of a source's code: its own fault, not ours
FAULTS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def fault(number: int, exc: Exception) -> Fault:
    """Why, in words."""
    if isinstance(exc, KeyError):
        return Fault(number, f"it has no {exc.args[0]}")
    if isinstance(exc, TypeError | AttributeError):
        return Fault(number, f"it is built otherwise than a row of that kind: {exc}")
    return Fault(number, str(exc) or type(exc).__name__)


def unread(number: int, exc: Exception, line: bytes, kind: Any = None) -> Fault:
    """Why a line of JSON cannot be read, as a ``kind`` of record: the field, its value, and what
    it should be.
    """
    if not isinstance(exc, UNFIT):
        return fault(number, exc)
    refusal = refusal_of(exc, kind, body=line, what="it")
    try:
        value = msgspec.json.decode(line)
        for step in STEP.findall(refusal.param or ""):
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return Fault(number, str(refusal))
    is_said = f"`{refusal.param}` = " in str(refusal)
    if is_said or not refusal.param or isinstance(value, list | dict):
        return Fault(number, str(refusal))
    return Fault(number, f"{refusal}: it is {shown(value)}")


def shown(value: Any) -> str:
    """A value in a fault: as a text of a row, of no more than a few words."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


class Source(NamedTuple):
    """``total`` is how many rows there are, where that is known. ``rows`` is read once; ``unit`` is
    what their numbers count.
    """

    total: int | None
    rows: Iterator[Sourced | Fault]
    close: Callable[[], object] = lambda: None
    unit: str = "row"


def result_id(kind: str, source_id: str, created_at: int) -> ResultId:
    """A UUIDv7 of the time of then, the same each time: the rest is a hash of what the source calls
    it.
    """
    digest = hashlib.sha256(f"{kind}\0{source_id}".encode()).digest()
    rest = int.from_bytes(digest[:10], "big")
    number = created_at << 80 | (rest >> 62 & 0xFFF) << 64 | 0x7 << 76 | 0b10 << 62
    digits = f"{number | rest & (1 << 62) - 1:032x}"
    return ResultId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def named(result: Result, tenant: str | None) -> Result:
    """As it is written: its engine tells that it was imported. ``tenant`` is whose it becomes, if
    it is nobody's.

    Raises:
        ValueError: it has a time, an id or a number that no result has, or ``tenant`` is no name.
    """
    _require_named("tenant", tenant)
    if not 0 <= result.created_at <= CREATED_AT_MAX:
        raise ValueError(f"its created_at, {result.created_at}, is in no year from 1970 to 9999")
    if not _is_uuid(result.id):
        raise ValueError(f"its id, {shown(result.id)}, is no UUID")
    for record in (result, *result.outputs):
        for name in record.__struct_fields__:
            value = getattr(record, name)
            if isinstance(value, int) and not -INTEGER_BOUND <= value < INTEGER_BOUND:
                raise ValueError(f"its {name}, {value}, is beyond 64 bits")
    engine = result.engine if result.engine.startswith(IMPORTED) else IMPORTED + result.engine
    whose = tenant if result.tenant is None else result.tenant
    return msgspec.structs.replace(result, engine=engine, tenant=whose)


def require_plausible(result: Result) -> None:
    """What no box has recorded is looked at.

    Raises:
        ValueError: a count or a duration is below 0, or a name has a control character, by which a
        terminal may be led astray.
    """
    for name in result.__struct_fields__:
        value = getattr(result, name)
        if name.endswith(AT_LEAST_0) and value is not None and value < 0:
            raise ValueError(f"its {name}, {value}, is below 0")
    for name in OF_NAMES:
        _require_named(name, getattr(result, name))


def _require_named(name: str, value: str | None) -> None:
    if (found := CONTROL.search(value or "")) is not None:
        raise ValueError(
            f"its {name}, {shown(value)}, has the control character U+{ord(found[0]):04X}"
        )


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    digits = "".join(parts)
    return (
        [len(part) for part in parts] == [8, 4, 4, 4, 12]
        and digits == digits.lower()
        and all(character in "0123456789abcdef" for character in digits)
    )


def made(kind: str, source_id: str, *, created_at: int, body: bytes, **fields: Any) -> Result:
    """A result of what a source has: ``kind`` becomes its engine, what is not given is not known.

    Raises:
        ValueError: its time is none, a count or a name is not plausible, or a value is of another
        type than its column: it would be read otherwise than its digest was taken.
    """
    if not 0 <= created_at <= min(CREATED_AT_MAX, ID_TIME_MAX):
        raise ValueError(f"its time, {created_at}, is in no year from 1970 to 9999")
    metadata = {"source": kind, "source_id": source_id, **fields.pop("metadata", {})}
    input_text, response_body = fields.pop("input_text", None), fields.pop("response_body", b"")
    latency_ms = fields.pop("latency_ms", 0.0)
    result = Result(
        id=result_id(kind, source_id, created_at),
        device_id=DeviceId(""),
        boot_id=BootId(""),
        boot_seq=0,
        engine=kind,
        engine_version=fields.pop("engine_version", ""),
        created_at=created_at,
        completed_at=created_at + round(latency_ms),
        latency_ms=float(latency_ms),
        queue_ms=0.0,
        clock_synced=False,
        metadata=msgspec.json.encode(metadata).decode(),
        request_fingerprint=hashlib.sha256(body).digest(),
        http_status=fields.pop("http_status", 200),
        stream=fields.pop("stream", False),
        operation=fields.pop("operation", Operation.CHAT),
        endpoint=fields.pop("endpoint", CHAT),
        status=fields.pop("status", Status.COMPLETED),
        content=Content(input_text=input_text, request_body=body, response_body=response_body),
        **fields,
    )
    outputs = tuple(map(_typed, result.outputs))
    typed = _typed(msgspec.structs.replace(result, outputs=outputs, content=_typed(result.content)))
    require_plausible(typed)
    return typed


def _typed(record: Made) -> Made:
    """As decoding would have it: constructors look at no type."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    try:
        return msgspec.convert(fields, type(record))
    except msgspec.ValidationError as exc:
        refusal = refusal_of(exc)
        raise ValueError(f"{refusal}: it is {shown(fields.get(refusal.param or ''))}") from exc


def chat_body(model: str | None, messages: list[Json], **more: Any) -> bytes:
    """The request that a chat would have been."""
    given = {name: value for name, value in more.items() if value}
    return msgspec.json.encode({"model": model, "messages": messages, **given})


def outputs_of(text: str, *, is_json: bool = False, **fields: Any) -> tuple[Output, ...]:
    """One choice. ``is_json``: JSON was asked for."""
    if is_json:
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            fields["json_state"] = JsonState.INVALID
        else:
            fields |= {"json_state": JsonState.VALID, "output_json": text}
    return (Output(choice_index=0, output_text=text, **fields),)


def moment(value: Any, of: str) -> int:
    """UTC milliseconds of a time as databases write it; without a zone it is UTC.

    Raises:
        ValueError: it is none.
    """
    if value is None or value == "":
        raise ValueError(f"it has no {of}")
    odd = f"its {of}, {shown(value)}, is no time as 2026-11-30 08:00:00"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(odd) from None
    if not isinstance(value, datetime):
        raise ValueError(odd)  # noqa: TRY004  (one kind of fault)
    at = value if value.tzinfo else value.replace(tzinfo=UTC)
    found = (at - EPOCH) // MILLISECOND
    if not 0 <= found <= CREATED_AT_MAX:
        raise ValueError(f"its {of}, {shown(str(value))}, is in no year from 1970 to 9999")
    return found


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = EPOCH.replace(microsecond=1000) - EPOCH


def number(value: Any, of: str) -> float | None:
    """A number of at least 0, also where it is written as a text; None where there is none.

    Raises:
        ValueError: it is none.
    """
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found < 2**63:
        raise ValueError(f"its {of}, {shown(str(value))}, is no number of at least 0")
    return found
