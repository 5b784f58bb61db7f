"""What the commands of a box take where there are very many results, each a process of its own as a
user starts it; beside the same of a hundredth of them, which tells whether memory stays flat.

Standard output goes to a file that nobody reads; exports and backups are removed at once. CPU is
the user's and the system's time of the process and of those that it started; memory is the most
that was resident in the largest of them.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx

from edge_store.bench.figures import Figure, at_most, peak_resident_bytes
from edge_store.bench.history import DAYS, FIRST_AT, LAST_AT, MODELS, History
from edge_store.bench.load import free_port
from edge_store.bench.rows import Run, run_once
from edge_store.bench.served import START_TIMEOUT_S
from edge_store.clock import now_ms, rfc3339
from edge_store.config import render_toml
from edge_store.search.file import index_bytes, index_path
from edge_store.sql import sql
from edge_store.sqlite import is_vulnerable, open_reader

__all__ = ["bench_many"]

SHARE = 100  # the small file has one in so many
MEMORY_GROWTH_MAX = 1.5
TIMEOUT = "36000"
RANGE_MS = 600_000
PLAN = "plan"  # the settings of retention, by which half would go


class Asked(NamedTuple):
    """A command's name in the report, and its words."""

    name: str
    words: Sequence[str]


async def bench_many(
    folder: Path, *, rows: int, given: Path | None, say: Callable[[str], None]
) -> list[Figure]:
    """``rows`` results are made, unless a database is ``given``, which is then asked, and has its
    search index made anew.
    """
    large = await asyncio.to_thread(_box, folder / "large", rows, given, say)
    few = max(1, rows // SHARE)
    small = await asyncio.to_thread(_box, folder / "small", few, None, say)
    figures = []
    with closing(open_reader(large.database)) as reader:
        (count,) = reader.execute(sql("select_last_seq")).fetchone()
        (texts,) = reader.execute(sql("bench_text_bytes")).fetchone()
    for ours, theirs in zip(_commands(large), _commands(small), strict=True):
        before = await asyncio.to_thread(run_once, _words(small, theirs))
        found = await asyncio.to_thread(run_once, _words(large, ours))
        say(f"{ours.name}: {found.wall_s:.2f} s, CPU {found.cpu_s:.2f} s, load {_load()}")
        figures += list(_figures(ours.name, found, before))
        for box in (small, large):  # room for what the next one makes
            shutil.rmtree(box.out)
            box.out.mkdir()
        if ours.name == REINDEX:
            size = index_bytes(index_path(large.database))
            figures.append(Figure(name=f"{REINDEX}, size", value=size / count, unit="B/row"))
            figures.append(
                Figure(name=f"{REINDEX}, size ÷ texts", value=size / texts, unit="ratio")
            )
    figures += await _starts(large, small, say)
    bytes_a_row = large.database.stat().st_size / count
    return [*figures, Figure(name="database, size", value=bytes_a_row, unit="B/row")]


class Box(NamedTuple):
    """A folder with edge-store.toml, its database, and where exports go."""

    home: Path
    database: Path
    out: Path
    port: int


def _box(home: Path, rows: int, given: Path | None, say: Callable[[str], None]) -> Box:
    home.mkdir()
    (home / "out").mkdir()
    box = Box(home, given or home / "results.db", home / "out", free_port())
    settings = {
        "server.port": box.port,
        "log.level": "warning",
        "replica.enabled": False,
        "store.path": str(box.database.absolute()),
        "store.disk_reserve_bytes": 0,
        "store.allow_vulnerable_sqlite": is_vulnerable(),
    }
    (home / "edge-store.toml").write_text(render_toml(settings), encoding="utf-8")
    (home / PLAN).mkdir()  # what a daemon must not do meanwhile
    settings["retention.keep_days"] = (now_ms() - LAST_AT) / 86_400_000 + DAYS / 2
    (home / PLAN / "edge-store.toml").write_text(render_toml(settings), encoding="utf-8")
    if given is None:
        with closing(History(box.database, rows)) as history:
            history.grow(rows, say)
    return box


REINDEX = "logs reindex"


def _commands(box: Box) -> list[Asked]:
    """In an order in which none needs what a later one makes."""
    middle = FIRST_AT + (LAST_AT - FIRST_AT) // 2
    ranged = ["-p", "model", MODELS[-1], "-p", "since", rfc3339(middle),
              "-p", "until", rfc3339(middle + RANGE_MS)]  # fmt: skip
    with closing(open_reader(box.database)) as reader:
        (last,) = reader.execute(sql("select_last_seq")).fetchone()
        asked = {"after": last // 2, "upto": last // 2 + 1}
        (name,) = reader.execute(sql("bench_id_between"), asked).fetchone()
    query = ["query", "--timeout", TIMEOUT]
    slow = ["--timeout", TIMEOUT]
    return [
        Asked("query, which only starts", [*query, sql("bench_nothing")]),
        Asked("query, newest 50", [*query, sql("bench_newest")]),
        Asked("query, by id", [*query, sql("bench_id"), "-p", "id", name]),
        Asked("query, model and 10 minutes", [*query, sql("bench_model_and_time"), *ranged]),
        Asked("query, usage_by_hour", [*query, sql("bench_usage_by_hour")]),
        Asked("query, p95 of a model", [*query, sql("bench_p95"), "-p", "model", MODELS[-1]]),
        Asked("query --since, of the view", [*query, sql("bench_counted"), "--since",
                                             rfc3339(LAST_AT - 3_600_000)]),
        Asked("query --nl, all rows, narrow", [*query, "--nl", sql("bench_narrow")]),
        Asked("query --nl, all rows, texts", [*query, "--nl", sql("bench_texts")]),
        Asked("logs ls", ["logs", "ls", "--nl"]),
        Asked("logs ls --status failed", ["logs", "ls", "--status", "failed", "--nl"]),
        Asked("logs ls, of a day long ago",
              ["logs", "ls", "--since", rfc3339(middle), "--until",
               rfc3339(middle + 86_400_000), "--nl"]),
        Asked("logs ls, none of a user", ["logs", "ls", "--user", "nobody", *slow, "--nl"]),
        Asked("logs show", ["logs", "show", name]),
        Asked("stats", ["stats", *slow]),
        Asked("stats --by model", ["stats", "--by", "model", *slow]),
        Asked("stats --since, an hour", ["stats", "--since", rfc3339(LAST_AT - 3_600_000)]),
        Asked("stats --disk", ["stats", "--disk", *slow]),
        Asked("ledger", ["ledger", *slow]),
        Asked("ledger --by day", ["ledger", "--by", "day", *slow]),
        Asked("retention plan", ["retention", "plan"]),
        Asked("export, jsonl", ["export", "--to", "jsonl", "--bodies", "-"]),
        Asked("export, Parquet", ["export", "--to", "parquet", str(box.out / "parquet")]),
        Asked("verify", ["verify"]),
        Asked("backup", ["backup", "--quiet", str(box.out / "b.db.zst")]),
        Asked(REINDEX, ["logs", "reindex"]),
        Asked("logs search, a word that most have", ["logs", "search", "printer", "--nl"]),
        Asked("logs search, a phrase", ["logs", "search", '"queue was full"', "--nl"]),
        Asked("logs search, newest first", ["logs", "search", "printer", "--newest", "--nl"]),
        Asked("logs search, a part of a word", ["logs", "search", "rinte", "--nl"]),
        Asked("logs search, none has it", ["logs", "search", "absent", "--nl"]),
    ]  # fmt: skip


def _words(box: Box, asked: Asked) -> list[str]:
    home = box.home / PLAN if asked.words[0] == "retention" else box.home
    return [sys.executable, "-m", "edge_store", *asked.words, "--config", str(home)]


def _figures(name: str, found: Run, before: Run) -> Iterator[Figure]:
    yield Figure(name=name, value=found.wall_s, unit="s")
    yield Figure(name=f"{name}, CPU", value=found.cpu_s, unit="s")
    yield Figure(name=f"{name}, memory", value=found.peak_bytes / 2**20, unit="MiB")
    growth = found.peak_bytes / before.peak_bytes
    yield at_most(f"{name}, memory ÷ that of a {SHARE}th", growth, MEMORY_GROWTH_MAX)


async def _starts(large: Box, small: Box, say: Callable[[str], None]) -> list[Figure]:
    """After a stop, and after SIGKILL: how long until the first answer, and in how much memory."""
    figures = []
    for name, is_killed in (("serve, first start", True), ("serve, after SIGKILL", False)):
        seconds, peaks = [], []
        for box in (small, large):
            wall_s, peak = await _started(box, is_killed=is_killed)
            seconds.append(wall_s)
            peaks.append(peak)
        say(f"{name}: {seconds[1]:.2f} s, load {_load()}")
        figures += [
            Figure(name=f"{name} to first answer", value=seconds[1], unit="s"),
            Figure(name=f"{name} to first answer, of a {SHARE}th", value=seconds[0], unit="s"),
            Figure(name=f"{name}, memory", value=peaks[1] / 2**20, unit="MiB"),
            at_most(f"{name}, memory ÷ that of a {SHARE}th", peaks[1] / peaks[0],
                    MEMORY_GROWTH_MAX),
        ]  # fmt: skip
    return figures


async def _started(box: Box, *, is_killed: bool) -> tuple[float, int]:
    """Seconds from its start to the end of its first answer, and the most that was resident."""
    words = [sys.executable, "-m", "edge_store", "serve", "--config", str(box.home)]
    with (box.home / "server.log").open("ab") as log:
        began = time.monotonic()
        daemon = await asyncio.create_subprocess_exec(*words, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await _first_answer(daemon, box.port)
        seconds = time.monotonic() - began
        return seconds, peak_resident_bytes(daemon.pid)
    finally:
        if is_killed:
            daemon.kill()
        else:
            daemon.terminate()
        await daemon.wait()


async def _first_answer(daemon: asyncio.subprocess.Process, port: int) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Is it there?"}]}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        while True:
            assert daemon.returncode is None, "the daemon has ended: see server.log"
            try:
                answer = await client.post("/v1/chat/completions", json=body)
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            if answer.status_code == 200:
                return
            await asyncio.sleep(0.02)


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"
