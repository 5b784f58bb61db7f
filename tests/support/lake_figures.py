"""Measures questions to a lake that is made for it: CPU-seconds and memory of one process for each.

    python -m support.lake_figures ROWS [TEXT_CHARS]

ROWS results of 50 boxes over 30 days, and as many outputs of TEXT_CHARS characters (300).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import write_deltalake

from edge_store.fleet.centre import Centre
from edge_store.fleet.lake.append import properties
from edge_store.fleet.lake.ask import ask_lake
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import PARTITION, schema_of
from edge_store.fleet.search import Wanted, search_fleet
from edge_store.fleet.stats import By, fleet_stats

BOXES, DAYS, PART = 50, 30, 500_000
COMMON = """'box-' || (i % 50) AS device_id, 't-' || (i % 50) AS timeline, i AS seq,
printf('%08x-0000-7000-8000-000000000000', i) AS id, 1760000000000 + i * $step AS created_at,
CAST(make_timestamp((1760000000000 + i * $step) * 1000) AS DATE) AS date,
CAST(i % 50 % 4 AS INTEGER) AS bucket"""
RESULTS = """'b' AS boot_id, i AS boot_seq, 'chat' AS operation, '/v1/chat/completions' AS endpoint,
CASE WHEN random() < 0.98 THEN 'completed' ELSE 'failed' END AS status,
'm' || (i % 4) AS request_model,
'm' || (i % 4) AS response_model, 'sglang' AS engine, '0.5.23' AS engine_version, '{}' AS params,
1760000000900 + i * $step AS completed_at, 1 AS clock_synced, random() * 1000 AS latency_ms,
random() * 100 AS ttft_ms, 0.0 AS queue_ms, CAST(random() * 1000 AS BIGINT) AS input_tokens,
CAST(random() * 500 AS BIGINT) AS output_tokens, 'stop' AS finish_reason, 0 AS stream,
unhex(sha256(i::VARCHAR)) AS request_fingerprint, 200 AS http_status,
unhex(sha256('d' || i)) AS digest"""
OUTPUTS = """0 AS choice_index,
md5(i::VARCHAR) || repeat(md5((i + 1)::VARCHAR), $chars // 32) AS output_text,
'stop' AS finish_reason,
CASE WHEN i % 10 = 0 THEN 'valid' ELSE 'text' END AS json_state"""
STATEMENTS = {
    "by box": "SELECT device_id, count(*), sum(output_tokens), avg(latency_ms) FROM results "
    "GROUP BY 1",
    "generations by model": "SELECT model, count(*), avg(latency_ms) FROM generations GROUP BY 1",
    "one day of one box": "SELECT count(*) FROM results "
    "WHERE device_id = 'box-7' AND date = DATE '2025-10-20'",
    "longest text": "SELECT max(length(output_text)) FROM outputs",
    "join of both": "SELECT count(output_text) FROM generations",
}


def make(folder: Path, rows: int, chars: int) -> None:
    lake = Lake(str(folder))
    step = DAYS * 86_400_000 // rows
    for table, columns in (("results", RESULTS), ("outputs", OUTPUTS)):
        delta, schema = lake.make(table, 4), schema_of(table)
        for begin in range(0, rows, PART):
            end = min(rows, begin + PART)
            with duckdb.connect(config={"threads": "2"}) as connection:
                given = {"step": step} | ({"chars": chars} if table == "outputs" else {})
                have = connection.sql(
                    f"SELECT {COMMON}, {columns} FROM range({begin}, {end}) AS r (i)", params=given
                ).to_arrow_table()
            arrays = [
                have[field.name].cast(field.type)
                if field.name in have.schema.names
                else pa.nulls(len(have), field.type)
                for field in schema
            ]
            write_deltalake(
                delta, pa.table(arrays, schema=schema), mode="append",
                partition_by=list(PARTITION), writer_properties=properties(schema),
            )  # fmt: skip


def memory_mb() -> int:
    """The most that this process had; getrusage tells its parent's, if that had more."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def measure(folder: Path, name: str) -> None:
    """In this process: prints the figures of one question."""
    began, cpu = time.monotonic(), time.process_time()
    lake = Lake(str(folder))
    centre = Centre(folder=folder, lake_url=str(folder))
    match name:
        case "stats":
            rows = len(fleet_stats(centre, By.DEVICE, 0, timeout_s=600).result.rows)
        case "search":
            rows = len(search_fleet(centre, Wanted(text="abcde"), timeout_s=600).result.rows)
        case _:
            answer = ask_lake(lake, [], STATEMENTS[name], rows_max=1000, timeout_s=600)
            assert answer is not None
            rows = len(answer.result.rows)
    print(
        json.dumps(
            {
                "question": name,
                "rows": rows,
                "cpu_s": round(time.process_time() - cpu, 2),
                "wall_s": round(time.monotonic() - began, 2),
                "rss_max_mb": memory_mb(),
                "load": round(os.getloadavg()[0], 1),
            }
        ),
        flush=True,
    )


def main() -> None:
    if sys.argv[1] == "--one":
        measure(Path(sys.argv[2]), sys.argv[3])
        return
    rows, chars = int(sys.argv[1]), int((sys.argv[2:] or ["300"])[0])
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), rows, chars)
        size = sum(file.stat().st_size for file in Path(name).rglob("*.parquet"))
        print(json.dumps({"rows": rows, "text_chars": chars, "lake_mb": size // 10**6}), flush=True)
        for question in (*STATEMENTS, "stats", "search"):
            subprocess.run(
                [sys.executable, "-m", "support.lake_figures", "--one", name, question], check=True
            )


if __name__ == "__main__":
    main()
