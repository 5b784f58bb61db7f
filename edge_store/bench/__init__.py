"""Benchmarks of the shipped parts: ratios out of one interleaved run, never single times."""

from edge_store.bench.batch import BatchPlan, bench_batch
from edge_store.bench.drill import DrillPlan, bench_drill
from edge_store.bench.engine import EnginePlan, EngineRun, bench_engine
from edge_store.bench.memory import bench_memory
from edge_store.bench.overload import OverloadPlan, bench_overload
from edge_store.bench.query import bench_query
from edge_store.bench.recorder import bench_recorder
from edge_store.bench.report import keep_logs, write_report
from edge_store.bench.retention import RetentionPlan, bench_retention
from edge_store.bench.shares import bench_shares
from edge_store.bench.verify import bench_verify
from edge_store.bench.writer import bench_writer

__all__ = [
    "BatchPlan",
    "DrillPlan",
    "EnginePlan",
    "EngineRun",
    "OverloadPlan",
    "RetentionPlan",
    "bench_batch",
    "bench_drill",
    "bench_engine",
    "bench_memory",
    "bench_overload",
    "bench_query",
    "bench_recorder",
    "bench_retention",
    "bench_shares",
    "bench_verify",
    "bench_writer",
    "keep_logs",
    "write_report",
]
