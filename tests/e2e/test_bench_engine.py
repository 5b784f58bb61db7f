"""``edge-store bench engine`` measures two real servers, and finds what a killed daemon stored."""

import json
from pathlib import Path

from support.daemon import Box

SECONDS = "1.5"
CALLERS = 8


def test_bench_engine_measures_both_servers_and_finds_every_answer(tmp_path: Path) -> None:
    box = Box(tmp_path / "none")
    box.deadline_s = 250.0  # its windows and starts alone take 20
    done = box.run(
        *("bench", "engine", "--kind", "demo", "--pairs", "1", "--equal-rate"),
        *("--seconds", SECONDS, "--connections", str(CALLERS), "--clients", "2"),
        *("--dir", str(tmp_path), "--report", str(tmp_path)),
    )
    # One pair is not enough for a claim, and it says so.
    assert done.returncode == 1, done.stderr
    run = json.loads((tmp_path / "engine.json").read_text())["run"]
    figures = {figure["name"]: figure for figure in run["figures"]}
    assert not figures["pairs of each load"]["holds"]

    assert [pair["load"]["mode"] for pair in run["pairs"]] == ["plain", "streamed", "streamed"]
    *closed, offered = run["pairs"]
    assert [pair["load"].get("offered_per_s") for pair in closed] == [None, None]
    rate = offered["load"]["offered_per_s"]
    for side in (offered["daemon"], offered["own"]):  # fewer, on a machine that is busy
        assert side["answers"] < 1.15 * rate * float(SECONDS) + CALLERS  # each may begin with one
    for pair in run["pairs"]:
        for side in (pair["daemon"], pair["own"]):
            assert side["answers"] == round(side["requests_per_s"] * float(SECONDS)) > 0
            assert 0 < side["p50_ms"] <= side["p99_ms"]
            assert 0 < side["cpu_us_parent"] < 1.01 * side["cpu_us_tree"]
            assert 1 <= side["tokens_per_answer"] <= 32
            assert (side["ttft_p50_ms"] is not None) == (pair["load"]["mode"] == "streamed")

    kill = run["kill"]
    answered = sum(pair["daemon"]["answers"] for pair in run["pairs"])
    assert kill["acknowledged"] > 0
    assert kill["acknowledged_in_run"] >= kill["acknowledged"] + answered
    assert kill["in_database"] == kill["acknowledged_in_run"] <= kill["rows"]
    assert kill["is_whole"]
    assert 0 < kill["unanswered"] <= CALLERS
    page = (tmp_path / "engine.md").read_text()
    assert "| 8 streamed | 1 |" in page
    assert f"| 8 streamed, {rate:.0f}/s | 1 |" in page
    assert not list(tmp_path.glob("edge-store-bench-*"))


def test_bench_engine_wants_a_model(tmp_path: Path) -> None:
    done = Box(tmp_path / "none").run("bench", "engine")
    assert done.returncode == 2
    assert "--model is missing" in done.stderr


def test_bench_engine_shows_why_a_server_did_not_start(tmp_path: Path) -> None:
    done = Box(tmp_path / "none").run(
        "bench", "engine", "--kind", "sglang", "--model", str(tmp_path / "no-model")
    )
    assert done.returncode == 1
    assert "sglang.launch_server" in done.stderr
    assert "ended with" in done.stderr
