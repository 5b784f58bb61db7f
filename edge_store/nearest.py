"""What helps with a statement that SQLite does not take: the name, or the word, that was meant."""

import difflib
import re
from collections.abc import Iterable

from edge_store.sql import sql
from edge_store.sqlite import SQLITE_ERRORS, Connection

__all__ = ["what_may_help"]

# SQLite has one code for every fault in a statement, so its message is all there is to go by. What
# comes of it is a hint.
ABSENT = re.compile(r"no such (column|table|function): (.+?)(?: - should this be .*)?$", re.DOTALL)
NEAR = re.compile(r'near "(\w+)": syntax error')
UNCLOSED = re.compile(r"unrecognized token: \W|incomplete input")
LONE_WORD = re.compile(r"\s*(\w+)\s*;?\s*")
WORD = re.compile(r"\w+")
KEYWORDS = (
    "select", "from", "where", "group", "order", "having", "limit", "offset", "join", "left",
    "union", "with", "recursive", "values", "distinct", "between", "like",
)  # fmt: skip
LISTED_MAX = 40
LIKENESS = 0.6
PART_LIKENESS = 0.8


def what_may_help(connection: Connection, statement: str, message: str, listed: str) -> str:
    """Of a name that SQLite did not find the nearest one, or those there are, or ``listed``, which
    says how to list them. Nothing, where SQLite's ``message`` says it all.
    """
    found = ABSENT.search(message)
    try:
        kinds = {name: kind for name, kind, _ in connection.execute(sql("select_relations"))}
        if found is None:
            return _of_words(statement, message, kinds)
        name = found[2].strip("\"'`[]").rpartition(".")[2].strip("\"'`[]")
        match found[1]:
            case "table":
                return _of_relations(name, kinds) or listed
            case "function":
                return _of_functions(name, connection)
        words = set(WORD.findall(statement.lower()))
        named = [relation for relation in kinds if relation.lower() in words]
        columns = {
            relation: [column for column, _, _ in _columns(connection, relation)]
            for relation in named
        }
    except SQLITE_ERRORS:  # the file is no better than the statement
        return listed
    return _of_columns(name, columns) or listed


def _of_words(statement: str, message: str, kinds: dict[str, str]) -> str:
    if lone := LONE_WORD.fullmatch(statement):
        meant = _nearest(lone[1], kinds)
        if meant:
            return f'to see all of {meant}: "select * from {meant}"'  # noqa: S608  (for people)
        return f"SQL begins with select; a saved query is asked as @{lone[1]}"
    if UNCLOSED.search(message):
        return "a bracket or a quotation mark is not closed, or the end is missing"
    found = NEAR.search(message)
    meant = _nearest(found[1], KEYWORDS) if found else None
    return f"did you mean {meant}?" if meant else ""


def _of_functions(name: str, connection: Connection) -> str:
    meant = _nearest(name, (each for (each,) in connection.execute(sql("select_functions"))))
    asked = '`edge-store query "select distinct name from pragma_function_list"` lists them'
    return f"did you mean {meant}()?" if meant else asked


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
    """The name, or else that with a part, that is most like it: model for modell, request_model
    where there is no model.
    """
    by_lower = {each.lower(): each for each in names}
    by_part = {part: each for each in reversed(by_lower) for part in each.split("_")}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=LIKENESS)
    if found:
        return by_lower[found[0]]
    found = difflib.get_close_matches(name.lower(), by_part, n=1, cutoff=PART_LIKENESS)
    return by_lower[by_part[found[0]]] if found else None


def _list(names: list[str]) -> str:
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")
