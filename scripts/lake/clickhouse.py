"""Asks ClickHouse (chdb) the standard questions: it has a reader of Delta tables of its own."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import chdb
from chdb.session import Session
from standard import TABLES, compare

__all__ = ["differing"]

SPELLING = {
    "p50": "quantileExactInclusive(0.5)(%s)",
    "p95": "quantileExactInclusive(0.95)(%s)",
    "text": "toString(%s)",
}


def differing(lake: str, how: str, table_function: Callable[[str], str]) -> int:
    """How many answers are not DuckDB's. ``table_function`` reads a table of the lake."""
    with Session() as session:
        session.query("CREATE DATABASE lake ENGINE = Atomic")
        session.query("USE lake")
        for table in TABLES:
            session.query(f"CREATE VIEW {table} AS SELECT * FROM {table_function(table)}")

        def ask(query: str) -> Iterable[Sequence[Any]]:
            settings = "SETTINGS output_format_json_quote_64bit_integers = 0"
            answer = session.query(f"{query} {settings}", "JSONCompactEachRow")
            return [json.loads(line) for line in str(answer).splitlines()]

        return compare(f"ClickHouse (chdb {chdb.__version__}, {how})", lake, ask, SPELLING)


def main() -> int:
    lake = sys.argv[1]
    os.chdir(lake)  # it reads nothing outside its working folder
    found = differing(lake, "deltaLakeLocal", lambda table: f"deltaLakeLocal('{lake}/{table}')")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
