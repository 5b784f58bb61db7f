"""A table in PostgreSQL, by default that of the usual pipeline (``sglang_inference_results``:
``request_id, model_name, prompt, output_data, generated_tokens, latency_ms, created_at``): read
through a cursor of the server's, so that memory stays flat. What is not in the URL comes from the
environment (``PGPASSWORD``, ``~/.pgpass``).
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from edge_store.errors import ConfigError, ImportFailed, install
from edge_store.imports.sourced import (
    FAULTS,
    Fault,
    Source,
    Sourced,
    chat_body,
    fault,
    made,
    moment,
    number,
    outputs_of,
)
from edge_store.sql import sql

__all__ = ["is_url", "open_source", "table_source"]

KIND = "postgres"
TABLE = "sglang_inference_results"
ROWS_AT_ONCE = 256
CONNECT_TIMEOUT_S, COMMAND_TIMEOUT_S = 10.0, 300.0

Json = dict[str, Any]


def is_url(source: str) -> bool:
    """Whether it names a server."""
    return source.startswith(("postgresql://", "postgres://"))


def open_source(source: str, table: str | None) -> Source:
    """Raises ``ImportFailed``, ``ConfigError``."""
    if not is_url(source):
        raise ImportFailed(
            f"{source!r} is no URL of PostgreSQL", hint="as in postgresql://user@host/database"
        )
    return table_source(source, table or TABLE, _made)


def table_source(url: str, table: str, make: Callable[[Json], Any]) -> Source:
    """The rows of ``table``, maybe with its schema before a dot, each as ``make`` has it."""
    try:
        import asyncpg  # noqa: PLC0415  (an extra)
    except ImportError as exc:
        raise ConfigError(
            f"PostgreSQL takes asyncpg, which is not installed: {exc}",
            hint=install("postgres"),
        ) from exc
    failures = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError)
    runner = asyncio.Runner()

    def run(work: Any) -> Any:
        try:
            return runner.run(work)
        except failures as exc:
            raise ImportFailed(
                f"PostgreSQL: {exc or type(exc).__name__}",
                hint="look at the URL and --table; the password comes from PGPASSWORD or ~/.pgpass",
            ) from exc

    try:
        opened = run(_opened(asyncpg, url, table))
    except BaseException:
        runner.close()
        raise

    def close() -> None:
        runner.run(opened[0].close(timeout=CONNECT_TIMEOUT_S))
        runner.close()

    return Source(opened[1], _rows(run, opened[2], make), close)


async def _opened(asyncpg: Any, url: str, table: str) -> tuple[Any, int, Any]:
    """The connection, how many rows there are, and a cursor over them in one snapshot."""
    connection = await asyncpg.connect(
        url, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S
    )
    try:
        await connection.set_type_codec(
            "numeric", encoder=str, decoder=float, schema="pg_catalog", format="text"
        )
        await connection.transaction(isolation="repeatable_read", readonly=True).start()
        named = ".".join('"{}"'.format(part.replace('"', '""')) for part in table.split("."))
        statements = [
            sql(block).replace(f'"{TABLE}"', named)
            for block in ("count_import_table", "select_import_table")
        ]
        total = await connection.fetchval(statements[0])
        return connection, total, await connection.cursor(statements[1])
    except BaseException:
        await connection.close()
        raise


def _rows(run: Any, cursor: Any, make: Callable[[Json], Any]) -> Iterator[Sourced | Fault]:
    place = 0
    while rows := run(cursor.fetch(ROWS_AT_ONCE)):
        for row in rows:
            place += 1
            try:
                yield Sourced(place, make(dict(row)))
            except FAULTS as exc:
                yield fault(place, exc)


def _made(row: Json) -> Any:
    if row.get("request_id") is None:
        raise ValueError("it has no request_id")
    model, prompt = row.get("model_name"), row.get("prompt")
    output = row.get("output_data")
    text = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    tokens = number(row.get("generated_tokens"), "generated_tokens")
    return made(
        KIND,
        str(row["request_id"]),
        created_at=moment(row.get("created_at"), "created_at"),
        body=chat_body(model, [{"role": "user", "content": prompt}]) if prompt else b"",
        input_text=prompt,
        request_model=model,
        response_model=model,
        latency_ms=number(row.get("latency_ms"), "latency_ms") or 0.0,
        output_tokens=None if tokens is None else int(tokens),
        outputs=outputs_of(text, is_json=_is_document(text)) if output is not None else (),
    )


def _is_document(text: str) -> bool:
    """Whether it is a JSON array or object: the pipeline stores what it repaired."""
    try:
        return isinstance(msgspec.json.decode(text), dict | list)
    except (msgspec.DecodeError, RecursionError):
        return False
