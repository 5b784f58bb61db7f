"""Inserts results into the table of the usual pipeline, ``sglang_inference_results``.

The columns are those of the view of that name; their types are the table's own, whoever made it. A
result that is there already is left as it is. PostgreSQL's texts know no NUL: it becomes U+FFFD.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from edge_store.config import SinkSection
from edge_store.errors import ConfigError, SinkFailed, SinkRefused, install
from edge_store.sinks.sink import Event, Place
from edge_store.sql import sql_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Postgres"]

ROW_CLASSES = ("22", "23", "54")  # SQLSTATE: a value, a constraint, more than it can hold
CLOSE_S = 1.0
# In JSON, after backslashes that escape each other, what its texts cannot have: a NUL, and half of
# a pair of surrogates. A pair is its second group.
UNESCAPED = r"(?<!\\)((?:\\\\)*)"
NUL = re.compile(UNESCAPED + r"\\u0000")
HALF_PAIR = re.compile(
    UNESCAPED + r"(?:(\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})"
    r"|\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
NO_SUCH_TYPE = "a value does not fit its column's type"


class Postgres:
    """One table of one server."""

    def __init__(self, config: SinkSection, place: Place) -> None:
        try:
            import asyncpg  # noqa: PLC0415  (an extra)
        except ImportError:
            raise ConfigError(
                "a sink of kind postgres needs asyncpg",
                hint=install("postgres"),
            ) from None
        self._library: Any = asyncpg
        self._config, self._place = config, place
        self._connection: Any = None
        self._convert: tuple[Callable[[Any], Any], ...] = ()

    async def open(self) -> None:
        """Connect, make the table if that is let, and learn its types."""
        password = {"password": self._place.secret} if self._place.secret else {}
        with self._translated():
            self._connection = await self._library.connect(
                self._place.url, timeout=self._config.timeout_s,
                command_timeout=self._config.timeout_s, **password,
            )  # fmt: skip
            if self._config.create_table:
                await self._connection.execute(sql_of("postgres", "create_table"))
            insert = await self._connection.prepare(sql_of("postgres", "insert_row"))
            self._convert = tuple(_converter(each.name) for each in insert.get_parameters())

    async def deliver(self, events: Sequence[Event]) -> None:
        """Insert them in one transaction."""
        try:
            rows = [
                tuple(None if value is None else convert(value)
                      for convert, value in zip(self._convert, _row(event), strict=True))
                for event in events
            ]  # fmt: skip
        except (ValueError, ArithmeticError) as exc:  # no UUID, no number
            raise SinkRefused(NO_SUCH_TYPE) from exc
        with self._translated():
            async with self._connection.transaction():
                await self._connection.executemany(sql_of("postgres", "insert_row"), rows)

    async def try_out(self) -> str:
        """That it opened says what there is to know."""
        return "its table sglang_inference_results takes rows"

    @contextmanager
    def _translated(self) -> "Iterator[None]":
        """The library's errors as ours, without their details, which quote values."""
        try:
            yield
        except self._library.PostgresError as exc:
            state = str(exc.sqlstate or "")
            message = f"PostgreSQL answered {state}, {type(exc).__name__}"
            if state.startswith(ROW_CLASSES):
                raise SinkRefused(message) from exc
            hint = ""
            if state == "42P10":
                hint = "the table needs a unique index on request_id"
            raise SinkFailed(message, hint=hint) from exc
        except (self._library.InterfaceError, self._library.DataError) as exc:
            if isinstance(exc, self._library.DataError):  # a value that is none of its type
                raise SinkRefused(NO_SUCH_TYPE) from exc
            raise SinkFailed(f"PostgreSQL: {type(exc).__name__}") from exc
        except ValueError as exc:  # of the URL, which may have the password
            raise SinkFailed("the URL is none for PostgreSQL") from exc

    async def close(self) -> None:
        """Let go of the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close(timeout=CLOSE_S)


def _row(event: Event) -> tuple[Any, ...]:
    """The values of the view ``sglang_inference_results``."""
    result = event.result
    output = next(iter(result.outputs), None)
    text = None if output is None else output.output_json or output.output_text
    return (
        result.id,
        result.response_model or result.request_model,
        result.content.input_text if event.has_bodies else None,
        text if event.has_bodies else None,
        result.output_tokens,
        result.latency_ms,
        datetime.fromtimestamp(result.created_at / 1000, UTC),
    )


def _converter(type_name: str) -> Callable[[Any], Any]:
    """From our value to what the library wants for a column of that type."""
    return CONVERTERS.get(type_name, _as_text)


def _as_text(value: Any) -> str:
    text = value.isoformat() if isinstance(value, datetime) else str(value)
    return text.replace("\x00", "\ufffd")


def _as_json(value: Any) -> str:
    """What is JSON as it is, but for what PostgreSQL's texts cannot have; any other text as a JSON
    string.
    """
    text = str(value)
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        text = json.dumps(text)
    text = NUL.sub(r"\1\\ufffd", text).replace("\x00", "\ufffd")
    return HALF_PAIR.sub(lambda found: found[1] + (found[2] or "\\ufffd"), text)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "json": _as_json,
    "jsonb": _as_json,
    "uuid": lambda value: UUID(str(value)),
    "numeric": lambda value: Decimal(str(value)),
    "int2": round,
    "int4": round,
    "int8": round,
    "float4": float,
    "float8": float,
    "timestamptz": lambda value: value,
    "timestamp": lambda value: value.replace(tzinfo=None),
}  # any other: a text
