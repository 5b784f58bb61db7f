"""The named statements: each compiles on the current schema, is used, and changes no result."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_store
from edge_store.schema import migrate
from edge_store.sql import blocks
from edge_store.sqlite import Connection, driver

PACKAGE = Path(edge_store.__file__).parent
FUNCTIONS = {"content_of": 5, "digest_of": -1, "length_of": 1}  # chain.add_digest_function
NEVER_CHANGED = {"results", "outputs", "requests", "commits", "blobs"}


@pytest.fixture
def connection() -> Iterator[Connection]:
    connection = driver.connect(":memory:", isolation_level=None)
    migrate(connection)
    for name, values in FUNCTIONS.items():
        connection.create_function(name, values, lambda *_: None)
    yield connection
    connection.close()


def explain(connection: Connection, statement: str) -> None:
    names = set(re.findall(r":(\w+)", statement))
    values = dict.fromkeys(names) if names else (None,) * statement.count("?")
    connection.execute(f"EXPLAIN {statement}", values).fetchall()


@pytest.mark.parametrize("name", sorted(blocks()))
def test_statement_compiles_on_the_current_schema(connection: Connection, name: str) -> None:
    explain(connection, blocks()[name])


def test_no_statement_updates_or_replaces_a_recorded_row(connection: Connection) -> None:
    changed = set()

    def note(action: int, table: str | None, *_: str | None) -> int:
        if action == driver.SQLITE_UPDATE:
            changed.add(table)
        return int(driver.SQLITE_OK)

    connection.set_authorizer(note)
    for statement in blocks().values():
        explain(connection, statement)
        assert not re.search(r"\bREPLACE\s+INTO\b|\bON\s+CONFLICT\b", statement, re.IGNORECASE)
    assert not changed & NEVER_CHANGED


@pytest.mark.parametrize("name", sorted(blocks("search")))
def test_statement_about_the_search_index_compiles(connection: Connection, name: str) -> None:
    connection.execute("ATTACH ':memory:' AS search_index")
    for table in ("state", "shards", "words", "trigrams"):
        create = blocks("search")[f"create_{table}"]
        head = "CREATE VIRTUAL TABLE" if "VIRTUAL" in create else "CREATE TABLE"
        connection.execute(create.replace(head, f"{head} search_index.", 1).replace(". ", "."))
    statement = blocks("search")[name]
    if name == "attach":  # not within the transaction of a statement that is only explained
        return
    if name.startswith("create_"):
        statement = re.sub(r"(TABLE) ", r"\1 main.", statement)
    explain(connection, statement.replace(":condition", "1"))


@pytest.mark.parametrize("folder", [".", "copies", "lake", "llm", "postgres", "search"])
def test_every_statement_is_used(folder: str) -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    assert [name for name in blocks(folder) if f'"{name}"' not in code] == []
