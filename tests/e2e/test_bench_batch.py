"""``edge-store bench batch`` measures a batch alone and beside callers."""

from pathlib import Path

from support.daemon import Box


def test_bench_batch_measures_both_ways(tmp_path: Path) -> None:
    box = Box(tmp_path / "none")
    box.deadline_s = 250.0
    done = box.run(
        *("bench", "batch", "--pairs", "1", "--lines", "40", "--seconds", "0.5"),
        *("--dir", str(tmp_path)),
    )
    assert done.returncode in (0, 1), done.stderr  # one short pair is not enough for a claim
    assert "40 lines, batch ÷ callers" in done.stdout, done.stderr
    assert "callers' p99, with a batch ÷ without" in done.stdout
    assert not list(tmp_path.glob("edge-store-bench-*"))
