"""What a statement may have meant that names a column, a table or a view that is not there."""

import difflib
import re
from collections.abc import Iterable

from edge_store.sql import sql
from edge_store.sqlite import SQLITE_ERRORS, Connection

__all__ = ["what_there_is"]

# SQLite has one code for every fault in a statement, so its message is all there is to go by. What
# comes of it is a hint.
ABSENT = re.compile(r"no such (column|table): (.+?)(?: - should this be .*)?$", re.DOTALL)
WORD = re.compile(r"\w+")
LISTED_MAX = 40
LIKENESS = 0.6


def what_there_is(connection: Connection, statement: str, message: str) -> str | None:
    """The nearest name for the one that SQLite did not find, or those there are; None of another
    message.
    """
    found = ABSENT.search(message)
    if found is None:
        return None
    name = found[2].strip("\"'`[]").rpartition(".")[2].strip("\"'`[]")
    try:
        kinds = {name: kind for name, kind, _ in connection.execute(sql("select_relations"))}
        if found[1] == "table":
            return _of_relations(name, kinds)
        words = set(WORD.findall(statement.lower()))
        named = [relation for relation in kinds if relation.lower() in words]
        columns = {
            relation: [column for column, _, _ in _columns(connection, relation)]
            for relation in named
        }
    except SQLITE_ERRORS:  # the file is no better than the statement
        return None
    return _of_columns(name, columns)


def _columns(connection: Connection, relation: str) -> Iterable[tuple[str, str, str]]:
    return connection.execute(sql("select_columns"), {"relation": relation, "database": None})


def _of_relations(name: str, kinds: dict[str, str]) -> str | None:
    views = [each for each, kind in kinds.items() if kind == "view"]  # none in a union of boxes
    meant = _nearest(name, kinds)
    parts = [f"did you mean {meant}?"] if meant else []
    return " ".join([*parts, f"the views: {_list(views)}"] if views else parts) or None


def _of_columns(name: str, columns: dict[str, list[str]]) -> str | None:
    every = [column for relation in columns.values() for column in relation]
    meant = _nearest(name, every)
    if meant:
        (relation, *_) = (each for each, names in columns.items() if meant in names)
        return f"did you mean {meant}, of {relation}?"
    return "; ".join(f"{each} has {_list(names)}" for each, names in columns.items()) or None


def _nearest(name: str, names: Iterable[str]) -> str | None:
    by_lower = {each.lower(): each for each in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=LIKENESS)
    return by_lower[found[0]] if found else None


def _list(names: list[str]) -> str:
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")
