"""The standard questions to a lake, for any engine that reads Delta, and how answers compare.

``{p50:x}`` and ``{p95:x}`` stand for an exact percentile of ``x``, interpolated between neighbours;
``{text:x}`` for ``x`` as text: the two things that the engines spell differently.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import duckdb
from deltalake import DeltaTable

TABLES = ("results", "outputs")
NOT_PREFIX = "operation <> 'prefix_cache'"
MODEL = "coalesce(response_model, request_model)"
QUERIES = {
    "use by day and model": f"""
        SELECT {{text:date}} AS day, {MODEL} AS model, count(*) AS requests,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
        FROM results WHERE {NOT_PREFIX} GROUP BY 1, 2 ORDER BY 1, 2""",
    "how requests ended, by box": f"""
        SELECT device_id, status, coalesce(error_type, '') AS error, count(*) AS requests
        FROM results WHERE {NOT_PREFIX} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
    "latency by model": f"""
        SELECT {MODEL} AS model, {{p50:latency_ms}} AS p50, {{p95:latency_ms}} AS p95,
            max(latency_ms) AS most
        FROM results WHERE {NOT_PREFIX} GROUP BY 1 ORDER BY 1""",
    "JSON by box": """
        SELECT o.device_id, o.json_state, count(*) AS choices,
            sum(CASE WHEN o.schema_valid = 1 THEN 1 ELSE 0 END) AS valid
        FROM outputs o GROUP BY 1, 2 ORDER BY 1, 2""",
    "the slowest answers": f"""
        SELECT r.device_id, r.id, r.latency_ms, o.finish_reason
        FROM results r JOIN outputs o ON o.device_id = r.device_id AND o.id = r.id
        WHERE r.{NOT_PREFIX} AND o.choice_index = 0
        ORDER BY r.latency_ms DESC, r.device_id, r.id LIMIT 50""",
    "tokens by hour": f"""
        SELECT floor(created_at / 3600000.0) AS hour, count(*) AS requests,
            sum(output_tokens) AS output_tokens
        FROM results WHERE {NOT_PREFIX} GROUP BY 1 ORDER BY 1""",
}
TOLERANCE = 1e-9  # of a percentile, relative
HOLE = re.compile(r"\{(\w+):([^}]*)\}")


def spelled(query: str, spelling: dict[str, str]) -> str:
    """The query as an engine wants it: ``spelling`` has ``%s`` for what is in the hole."""
    return HOLE.sub(lambda hole: spelling[hole[1]] % hole[2], query)


def duckdb_answers(lake: str) -> dict[str, list[tuple[Any, ...]]]:
    """What DuckDB says."""
    spelling = {
        "p50": "quantile_cont(%s, 0.5)",
        "p95": "quantile_cont(%s, 0.95)",
        "text": "CAST(%s AS VARCHAR)",
    }
    with duckdb.connect() as connection:
        for table in TABLES:
            dataset = DeltaTable(f"{lake}/{table}").to_pyarrow_dataset()
            connection.register(table, dataset)
        return {
            name: connection.execute(spelled(query, spelling)).fetchall()
            for name, query in QUERIES.items()
        }


def compare(
    engine: str, lake: str, ask: Callable[[str], Iterable[Sequence[Any]]], spelling: dict[str, str]
) -> int:
    """Ask an engine everything, and print what differs from DuckDB's answer; how many do."""
    differing = 0
    for name, expected in duckdb_answers(lake).items():
        found = [tuple(row) for row in ask(spelled(QUERIES[name], spelling))]
        is_same = len(found) == len(expected) and all(map(_alike, found, expected))
        print(f"{engine}: {name}: {len(found)} rows, {'as DuckDB' if is_same else 'NOT AS DUCKDB'}")
        if not is_same:
            differing += 1
            first = next(
                (pair for pair in zip(found, expected, strict=False) if not _alike(*pair)), None
            )
            print(f"  {len(found)} and {len(expected)} rows; the first that differ: {first}")
    return differing


def _alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) and all(map(_equal, one, other))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float, Decimal)) and isinstance(other, (int, float, Decimal)):
        return math.isclose(one, other, rel_tol=TOLERANCE)
    return bool(one == other)
