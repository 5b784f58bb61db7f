"""Asks ClickHouse (chdb) the standard questions: it has a reader of Delta tables of its own."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import chdb
from chdb.session import Session
from standard import TABLES, compare

SPELLING = {
    "p50": "quantileExactInclusive(0.5)(%s)",
    "p95": "quantileExactInclusive(0.95)(%s)",
    "text": "toString(%s)",
}


def main() -> int:
    lake = sys.argv[1]
    os.chdir(lake)  # it reads nothing outside its working folder
    with Session() as session:
        session.query("CREATE DATABASE lake ENGINE = Atomic")
        session.query("USE lake")
        for table in TABLES:
            session.query(f"CREATE VIEW {table} AS SELECT * FROM deltaLakeLocal('{lake}/{table}')")

        def ask(query: str) -> Iterable[Sequence[Any]]:
            settings = "SETTINGS output_format_json_quote_64bit_integers = 0"
            answer = session.query(f"{query} {settings}", "JSONCompactEachRow")
            return [json.loads(line) for line in str(answer).splitlines()]

        return 1 if compare(f"ClickHouse (chdb {chdb.__version__})", lake, ask, SPELLING) else 0


if __name__ == "__main__":
    sys.exit(main())
