"""SIGKILL at any step of an export or an import: given again, it ends with all, each once."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.daemon import DEADLINE_S, ROOT, Box, environment
from support.exporting import box_of

CHILD = ROOT / "tests" / "support" / "export_child.py"
RESULTS = 500
KILLS = 2
STEPS = (4, 12)  # of some 32 in all: at which of them it waits; a file of Parquet takes two


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("box") / "results.db"
    connection, _ = box_of(path, RESULTS)
    connection.close()
    return path


def run_until_done(arguments: list[str], begun: Path, rng: random.Random) -> None:
    """Kill it some time after it began to write, so often; then let it end. Where this process is
    slow to come to that, it waits at one of its next steps to be killed.
    """
    held = begun.with_name("held")
    for kills in range(KILLS + 1):
        before = changed_at(begun)
        held.unlink(missing_ok=True)
        waits = {"HELD": str(held), "HELD_AT": str(rng.randint(*STEPS))} if kills < KILLS else {}
        child = subprocess.Popen(
            [sys.executable, str(CHILD), *arguments],
            env=environment(**waits), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            ends_at = time.monotonic() + DEADLINE_S
            while waits and child.poll() is None and time.monotonic() < ends_at:
                if held.exists() or changed_at(begun) not in (before, None):
                    time.sleep(rng.uniform(0, 0.05) if kills else 0)  # anywhere; it may be short
                    child.kill()
                    break
                time.sleep(0.001)
            _, error = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
        assert child.returncode == (-9 if waits else 0), error.decode()


def changed_at(path: Path) -> int | None:
    """None while it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_killed_export_is_completed_without_doubles_or_holes(
    database: Path, tmp_path: Path, kind: str
) -> None:
    seed = random.randrange(2**32)
    target = tmp_path / "out"
    arguments = ["export", "--db", str(database), "--to", kind, "--resume", str(target)]
    run_until_done(arguments, tmp_path / "out.state.json", random.Random(seed))
    if kind == "parquet":
        parts = [path for path in target.rglob("*") if path.is_file()]
        found = [seq for part in parts for seq in pq.ParquetFile(part).read()["seq"].to_pylist()]
        assert sorted(found) == list(range(1, RESULTS + 1)), seed
        return
    whole = tmp_path / "whole"
    done = Box(tmp_path).run("export", "--db", str(database), "--to", kind, str(whole))
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == whole.read_bytes(), seed


def test_a_killed_import_is_completed_and_every_boot_is_whole(
    database: Path, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    lines = tmp_path / "all.jsonl"
    done = Box(tmp_path).run("export", "--db", str(database), "--bodies", str(lines))
    assert done.returncode == 0, done.stderr
    box = Box.init(tmp_path / "box")
    arguments = ["import", str(lines), "--config", str(box.directory)]
    wal = box.database.with_name("results.db-wal")
    run_until_done(arguments, wal, random.Random(seed))
    ids = [json.loads(line)["id"] for line in lines.read_bytes().splitlines()]
    assert [name for (name,) in box.rows("SELECT id FROM results ORDER BY seq")] == ids, seed
    counted = box.rows("SELECT sum(admitted), min(percent) FROM completeness")
    assert counted == [(RESULTS, 100.0)], seed
    box.proven()
