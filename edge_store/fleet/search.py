"""Finds a text in the answers and prompts of a fleet, newest first.

A lake is searched by DuckDB. Prompts are in it only if `requests` are exported; else each copy is
searched too, by SQLite where it lies. An answer is found by its first choice.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from edge_store.clock import rfc3339
from edge_store.errors import EdgeStoreError, InvalidRequest, NotFound, QueryRefused
from edge_store.fleet.centre import Centre
from edge_store.fleet.copies import require_named, require_own
from edge_store.fleet.query import Unread, find_copies
from edge_store.identity import read_device_id
from edge_store.query import QueryResult, run_query
from edge_store.result import Record
from edge_store.sql import sql, sql_of
from edge_store.sqlite import open_reader, translated

__all__ = ["Found", "Wanted", "search_fleet"]

COLUMNS = ("created_at", "device_id", "id", "model", "status", "place", "snippet")
BEFORE, LENGTH = 40, 160  # characters of a snippet: before what was found, and in all
BYTES = 4 * LENGTH  # that they take at most


class Wanted(Record, frozen=True, kw_only=True):
    """``text``: any letter case. ``since_ms``: UTC."""

    text: str
    since_ms: int = 0
    model: str | None = None
    device_id: str | None = None
    limit: int = 50


class Found(Record, frozen=True, kw_only=True):
    """The rows, newest first, and the copies that are missing from them."""

    result: QueryResult
    unread: tuple[Unread, ...]
    absent_lake: str | None = None  # as a FleetAnswer has it


def search_fleet(centre: Centre, wanted: Wanted, *, timeout_s: float) -> Found:
    """Search lake and copies; ``timeout_s`` is for all of them.

    Raises:
        InvalidRequest: the text is empty.
        QueryRefused: it takes too long.
        NotFound: there are neither copies nor a lake, or nothing of the box.
    """
    if not wanted.text:
        raise InvalidRequest("the text to search for is empty", hint="give some letters of it")
    deadline = time.monotonic() + timeout_s
    rows: list[tuple[Any, ...]] = []
    unread: set[Unread] = set()
    name = _lake_statement(centre)
    if name is not None:
        answer = centre.ask(
            sql_of("lake", name),
            {
                **_params(wanted),
                "text": wanted.text.lower(),
                "before": BEFORE,
                "length": LENGTH,
            },
            rows_max=wanted.limit,
            timeout_s=timeout_s,
        )
        rows += answer.result.rows
        unread |= {*answer.unread}
    if name != "search":
        try:
            for found, failed in _in_copies(centre, wanted, deadline):
                rows += found
                unread |= {*failed}
        except NotFound:
            if name is None:
                raise
    if wanted.device_id is not None and not rows and not unread:
        centre.require_known(wanted.device_id)
    once = {(row[1], row[2]): row for row in reversed(rows)}  # of two the lake's
    ordered = sorted(once.values(), key=lambda row: row[1:3])
    ordered.sort(key=lambda row: row[0], reverse=True)
    result = QueryResult(columns=COLUMNS, rows=ordered[: wanted.limit], is_cut=False)
    return Found(
        result=result,
        unread=tuple(sorted(unread, key=lambda each: each.path)),
        absent_lake=centre.lake_url if name is None else None,
    )


def _lake_statement(centre: Centre) -> str | None:
    """Which block searches the lake; None where there is none yet."""
    tables = centre.lake_tables()
    if not tables:
        return None
    return "search" if "requests" in tables else "search_outputs"


def _params(wanted: Wanted) -> dict[str, Any]:
    return {
        "since": wanted.since_ms,
        "since_text": rfc3339(wanted.since_ms),
        "model": wanted.model,
        "device": wanted.device_id,
        "limit": wanted.limit,
    }


def _in_copies(
    centre: Centre, wanted: Wanted, deadline: float
) -> Iterator[tuple[Sequence[tuple[Any, ...]], tuple[Unread, ...]]]:
    text = "".join(each.lower() if each.isascii() else each for each in wanted.text)  # as SQLite
    params = {**_params(wanted), "text": text, "bytes": BYTES}
    del params["device"]
    for path in find_copies(centre.folder):
        if wanted.device_id not in (None, path.stem):
            continue
        left = max(deadline - time.monotonic(), 0.001)
        try:
            with closing(open_reader(path)) as reader:
                with translated(f"{path} cannot be read"):
                    device_id = require_named(path, read_device_id(reader))
                found = run_query(
                    reader, sql("search_box"), params, rows_max=wanted.limit, timeout_s=left
                )
            require_own(path, device_id, (row[1] for row in found.rows))
        except QueryRefused:
            raise
        except EdgeStoreError as exc:
            yield (), (Unread(path=path, error=str(exc)),)
        else:
            yield [(*row[:-2], _snippet(*row[-2:])) for row in found.rows], ()


def _snippet(head: bytes, tail: bytes) -> str:
    """Of what lies before the beginning of what was found, and from there on: cut anywhere."""
    before = head.decode(errors="ignore")[-BEFORE:]
    return before + tail.decode(errors="ignore")[: LENGTH - len(before)]
