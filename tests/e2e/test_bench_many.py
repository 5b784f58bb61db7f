"""``edge-store bench many`` runs every command that it claims to."""

from pathlib import Path

import pytest
from support.daemon import Box

from edge_store.bench.history import History
from edge_store.sqlite import open_reader
from edge_store.verify import verify_file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bench_many_runs_each_command_on_both_files(tmp_path: Path) -> None:
    box = Box(tmp_path / "none")
    box.deadline_s = 840.0
    done = box.run("bench", "many", "--rows", "3000", "--dir", str(tmp_path))
    assert done.returncode in (0, 1), done.stderr  # memory of a file this small says nothing
    for name in ("query, newest 50", "logs ls", "stats --disk", "retention plan", "export, jsonl",
                 "export, Parquet", "verify", "backup", "logs reindex, size",
                 "logs search, a phrase", "serve, after SIGKILL to first answer"):  # fmt: skip
        assert name in done.stdout, done.stderr
    assert not list(tmp_path.glob("edge-store-bench-*"))


def test_the_history_that_is_asked_is_a_whole_chain(tmp_path: Path) -> None:
    history = History(tmp_path / "results.db", 1000)
    history.grow(1000)
    history.close()
    check = verify_file(tmp_path / "results.db")
    assert (check.results, check.faults) == (1000, ())
    reader = open_reader(tmp_path / "results.db")
    assert reader.execute("SELECT count(DISTINCT model) FROM generations").fetchone() == (4,)
    reader.close()
