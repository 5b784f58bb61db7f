"""The views of a lake, and what a statement reads of them.

DuckDB itself says it, from empty tables: what need not be read stays unread, and what would be
joined in vain stays empty. SQL is composed here from the schema's own names only.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import pyarrow as pa

from edge_store.errors import QueryRefused
from edge_store.fleet.lake.session import Session
from edge_store.fleet.lake.tables import TABLES, schema_of
from edge_store.fleet.relations import quoted, relations
from edge_store.sql import sql_of

__all__ = [
    "LATE", "PARTS", "VIEWS", "columns_of", "create_table", "create_view", "needed_by",
    "part_columns", "view_columns",
]  # fmt: skip

TYPES = {
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
}
KEYS = frozenset({"device_id", "id", "seq", "choice_index"})
LATE = {  # columns, after device_id, of the blocks of fleet.sql that read them from a copy
    "late_metadata": ("select_late_metadata", {"id": "VARCHAR", "value": "VARCHAR"}),
    "late_repairs": (
        "select_late_repairs",
        {
            "id": "VARCHAR", "choice_index": "BIGINT", "output_json": "VARCHAR",
            "json_state": "VARCHAR", "schema_valid": "BIGINT", "schema_error": "VARCHAR",
            "repair_log": "VARCHAR", "repairer": "VARCHAR",
        },
    ),
}  # fmt: skip
# What `generations` joins: each of a table, and empty where only its keys would be read.
PARTS = {
    "first_outputs": "outputs",
    "output_counts": "outputs",
    "input_texts": "requests",
}
VIEWS = ("results", "outputs", "generations", "structured", "requests", "bodies")
PLAN_TIMEOUT_S = 60.0
# So that a plan names every column that is read: filters stay beside the scans, and nothing is left
# out for being empty.
PLANNER = "unused_columns"
UNKNOWN = re.compile(r'(?:column |Table with name )"?(\w+)"?')


@cache
def columns_of(table: str) -> Mapping[str, str]:
    """Names and types of a view on a table: in the order of the live one, then the lake's own. What
    the lake has not is how a box keeps its bodies.
    """
    known = {field.name: TYPES[field.type] for field in schema_of(table) if field.name != "bucket"}
    (relation,) = (each for each in relations() if each.name == table)
    live = [column.name for column in relation.columns]
    if "device_id" not in live:
        live.insert(0, "device_id")
    return {name: known[name] for name in (*live, *known) if name in known}


def needed_by(statement: str, params: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The tables, parts and late tables that have to be filled, with the columns that are read.
    Refuses what must be refused.
    """
    with Session() as session:
        connection = session.connection
        for name, columns in _empty_tables():
            connection.execute(create_table(name, columns))
        for view in VIEWS:
            connection.execute(create_view(view))
        others = connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        names = ",".join(sorted(name for (name,) in others if name != PLANNER))
        connection.execute(f"SET disabled_optimizers = '{names}'")
        session.lock()
        with _explained(statement):
            scans = session.scans(statement, params, PLAN_TIMEOUT_S)
    everything = {name: frozenset(columns) for name, columns in _empty_tables()}
    if scans is None:
        return everything
    needed = {
        name: KEYS | (everything[name] & columns)
        for name, columns in scans.items()
        if name not in {*PARTS, *LATE} or columns - KEYS
    }
    for name in needed.keys() & PARTS.keys():
        table = f"base_{PARTS[name]}"
        needed[table] = needed.get(table, KEYS) | (needed[name] & everything[table])
    return needed


def _empty_tables() -> Iterator[tuple[str, Mapping[str, str]]]:
    for table in TABLES:
        yield f"base_{table}", columns_of(table)
    for name in PARTS:
        yield name, part_columns(name)
    for name, (_block, columns) in LATE.items():
        yield name, {"device_id": "VARCHAR", **columns}


def part_columns(name: str) -> Mapping[str, str]:
    """Those that its statement selects: a table's, or a count."""
    known = columns_of(PARTS[name])
    head = sql_of("lake", name).partition("FROM")[0]
    return {column: known.get(column, "BIGINT") for column in re.findall(r"(\w+)(?:,|\s*$)", head)}


def create_table(name: str, columns: Mapping[str, str]) -> str:
    fields = ", ".join(f"{quoted(column)} {kind}" for column, kind in columns.items())
    return f"CREATE TABLE {quoted(name)} ({fields})"


def create_view(name: str) -> str:
    if name == "bodies":  # as boxes call those that are whole; a lake has no others
        return "CREATE VIEW bodies AS SELECT * FROM base_requests"
    if name in TABLES:
        return f"CREATE VIEW {name} AS SELECT * FROM base_{name}"  # noqa: S608
    return f"CREATE VIEW {name} AS {sql_of('lake', name)}"


@contextmanager
def _explained(statement: str) -> Iterator[None]:
    """Of a wrong name, name the right ones."""
    try:
        yield
    except QueryRefused as exc:
        found = UNKNOWN.search(str(exc))
        if exc.hint or not found:
            raise
        raise QueryRefused(str(exc), hint=_right_names(found[1], statement)) from exc


def _right_names(wrong: str, statement: str) -> str:
    if any(relation.name == wrong.lower() for relation in relations()):
        return f"the lake has no {wrong}: ask the copies for it, with --live"
    words = set(re.findall(r"\w+", statement.lower()))
    views = [view for view in VIEWS if view in words]
    if not views:
        return f"the views are {', '.join(VIEWS)}; with --live, all of a box's"
    parts = []
    for view in views:
        names = view_columns(view)
        near = difflib.get_close_matches(wrong.lower(), names, n=1)
        parts.append(f"{view} has {', '.join(near or names)}")
    return "; ".join(parts)


@cache
def view_columns(view: str) -> tuple[str, ...]:
    """The names of a view's columns, in order."""
    with Session() as session:
        for name, columns in _empty_tables():
            session.connection.execute(create_table(name, columns))
        session.connection.execute(create_view(view))
        cursor = session.connection.execute(f"SELECT * FROM {view}")  # noqa: S608
        return tuple(name for name, *_ in cursor.description)
