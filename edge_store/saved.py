"""Queries by name: those of ``[queries]`` in edge-store.toml, and those saved in the database,
which go wherever its replica goes. Of two with one name the configuration's counts.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound
from edge_store.query import SQL_CHARS_MAX
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "RemoveQuery", "SaveQuery", "Saved", "named_query", "remove_query", "save_query",
    "saved_queries",
]  # fmt: skip

SAVED_MAX = 1000


class SaveQuery(Record, frozen=True, kw_only=True):
    """Parameters of ``queries.save``. ``replaces``: one of that name may be there."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}\Z")]
    sql: Annotated[str, Meta(min_length=1, max_length=SQL_CHARS_MAX)]
    replaces: bool = False


class RemoveQuery(Record, frozen=True, kw_only=True):
    """Parameters of ``queries.remove``."""

    name: str


class Saved(NamedTuple):
    """A query of the database; ``at`` is UTC ms."""

    name: str
    sql: str
    at: int


def saved_queries(connection: Connection) -> list[Saved]:
    """Those of the database, by name; none where it is older than they are."""
    with translated("the saved queries cannot be read"):
        found = connection.execute(
            sql("select_columns"), {"relation": "queries", "database": "main"}
        ).fetchall()
        rows = connection.execute(sql("select_queries")).fetchall() if found else []
    return [Saved(*row) for row in rows]


def named_query(name: str, configured: Mapping[str, str], connection: Connection) -> str:
    """The SQL that ``@name`` stands for.

    Raises:
        NotFound: there is no query of that name.
    """
    if name in configured:
        return configured[name]
    known = {each.name: each.sql for each in saved_queries(connection)}
    if name in known:
        return known[name]
    every = sorted({*configured, *known})
    meant = difflib.get_close_matches(name, every, n=1)
    listed = f"there are {', '.join(f'@{each}' for each in every)}"
    raise NotFound(
        f"there is no query @{name}",
        hint=f"did you mean @{meant[0]}?" if meant
        else listed if every
        else f'save one: edge-store query save {name} "select …"',
    )  # fmt: skip


def save_query(connection: Connection, params: SaveQuery) -> bool:
    """Keep it; whether it replaces another.

    Raises:
        InvalidRequest: there is another one of that name, or there are too many.
    """
    known = {each.name: each.sql for each in saved_queries(connection)}
    other = known.get(params.name)
    if other is not None and other != params.sql and not params.replaces:
        raise InvalidRequest(
            f"@{params.name} is another query: {other}", hint="replace it with --replace"
        )
    if other is None and len(known) >= SAVED_MAX:
        raise InvalidRequest(
            f"{SAVED_MAX} queries are saved", hint="remove some with `edge-store query rm`"
        )
    connection.execute(sql("delete_query"), {"name": params.name})
    connection.execute(
        sql("insert_query"), {"name": params.name, "at": now_ms(), "sql": params.sql}
    )
    return other is not None


def remove_query(connection: Connection, params: RemoveQuery) -> bool:
    """Forget it; whether it was there."""
    return connection.execute(sql("delete_query"), {"name": params.name}).rowcount > 0
