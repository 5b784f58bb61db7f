"""Answers that do not fit the protocol's types: what is only recorded never fails an answer.

``decode`` tries the typed decoder, which is fast. Where that fails it reads plain JSON and fits it
to the same types, field by field; what cannot be fitted is as if it were absent.
"""

import json
import math
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from edge_store.recorder.transcript import Garbled
from edge_store.recorder.transcript.request import json_text, text_of

__all__ = ["Tokens", "decode", "error_status", "error_text"]

INTEGER_MAX = 2**63 - 1  # SQLite's
DIGITS_MAX = 300  # of an integer; int() is not linear, and longer ones are nobody's count
Tokens = Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX)]

S = TypeVar("S", bound=msgspec.Struct)


def decode(decoder: msgspec.json.Decoder[Any], kind: type[S], data: bytes) -> S | list[S]:
    """The answer, or a list of them if ``decoder`` takes one.

    Raises:
        Garbled: it is no JSON, or no object.
    """
    try:
        found: S | list[S] = decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _decode_leniently(decoder, kind, data, exc)
    return found


def error_text(error: Any) -> str:
    """What an ``error`` in an answer says: its message, where it has one."""
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return error if isinstance(error, str) else str(json_text(error))


def error_status(error: Any) -> int | None:
    """The HTTP status that an ``error`` in an answer names as its code, if it does."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _decode_leniently(
    decoder: msgspec.json.Decoder[Any], kind: type[S], data: bytes, cause: Exception
) -> S | list[S]:
    try:
        value = json.loads(
            data.decode("utf-8", "replace"), parse_int=_integer, parse_constant=lambda _: None
        )
        value = _storable(value)
    except (ValueError, RecursionError) as exc:
        raise Garbled(f"what is not JSON: {exc}") from exc
    if isinstance(value, dict):
        return _fitted(kind, value)
    takes_list = decoder.type is not kind and isinstance(value, list)
    if takes_list and all(isinstance(item, dict) for item in value):
        return [_fitted(kind, item) for item in value]
    raise Garbled(f"what is not an answer: {cause}") from cause


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= DIGITS_MAX else None


def _storable(value: Any) -> Any:
    """The same value with lone surrogates escaped: UTF-8 has none."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {_storable(name): _storable(item) for name, item in value.items()}
        case _:
            return value


@cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind)


def _fitted(kind: type[S], value: dict[str, Any]) -> S:
    fields = ((name, _fit(hint, value.get(name))) for name, hint in _hints(kind).items())
    return kind(**{name: found for name, found in fields if found is not None})


def _fit(hint: Any, value: Any) -> Any:
    """``value`` as the type of one field; None if it cannot be."""
    if value is None or hint is Any:
        return value
    if hint in (int, str):
        return _whole(value) if hint is int else _text(value)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _fitted(hint, value) if isinstance(value, dict) else None
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        if not isinstance(value, list):
            return None
        return [_fitted(item, v) for v in value if isinstance(v, dict)]
    fits = (_fit(part, value) for part in get_args(hint) if part is not type(None))
    return next((found for found in fits if found is not None), None)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value <= INTEGER_MAX else None


def _text(value: Any) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return None
        case list():
            return text_of(value)
        case _:
            return json_text(value)
