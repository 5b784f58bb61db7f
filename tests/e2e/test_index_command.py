"""``edge-store index`` as its user meets it: with the daemon stopped, running, and replicating."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
CHAT = {
    "model": "demo",
    "messages": [{"role": "user", "content": "is it well?"}],
    "metadata": {"order": "o-17"},
    "response_format": {"type": "json_schema", "json_schema": {"name": "well", "schema": SCHEMA}},
}
QUESTION = "select id from results where json_extract(metadata, '$.order') = 'o-17'"


def index(box: Box, *arguments: str) -> Any:
    return box.run("index", *arguments, "--config", str(box.directory))


def listed(box: Box) -> list[dict[str, Any]]:
    done = index(box, "ls")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def test_an_index_is_added_listed_used_and_removed(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.post("/v1/chat/completions", json=CHAT).status_code == 200
        refused = index(box, "add", "metadata.order")
        assert refused.returncode == 75
        assert "stop the daemon first" in refused.stderr
        assert index(box, "rm", "metadata.order").returncode == 75
        assert listed(box) == []
        assert daemon.stop() == 0

    for path in ("metadata.order", "output.ok", "metadata.order"):
        done = index(box, "add", path)
        assert done.returncode == 0, done.stderr
        assert f"{path}" in done.stdout
    first, second = listed(box)
    assert (first["path"], first["entries"]) == ("metadata.order", 1)
    assert (second["path"], second["entries"]) == ("output.ok", 1)
    assert first["expression"] in QUESTION
    plan = box.query(f"explain query plan {QUESTION}")
    assert "USING INDEX json.metadata.order" in plan[0]["detail"]

    with box.serve() as daemon:  # the daemon writes into it
        assert daemon.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert len(box.query(QUESTION)) == 2
        assert daemon.stop() == 0
    assert [each["entries"] for each in listed(box)] == [2, 2]
    assert index(box, "rm", "output.ok").returncode == 0
    assert [each["path"] for each in listed(box)] == ["metadata.order"]
    box.proven()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "customer.id"), "output.customer.id"),
        (("add", "output.a'); DROP TABLE results; --"), "output.customer.id"),
        (("rm", "output.absent"), "index ls"),
    ],
)
def test_what_cannot_be_done_is_said(box: Box, arguments: tuple[str, ...], said: str) -> None:
    with box.serve() as daemon:
        assert daemon.stop() == 0
    done = index(box, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    box.proven()


def test_before_the_first_start_there_is_nothing_to_index(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.database.unlink(missing_ok=True)
    done = index(box, "add", "output.a")
    assert done.returncode == 66
    assert not box.database.exists()


def test_an_index_survives_replication_without_a_new_upload(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true", REPLICA__STOP_TIMEOUT_S="50")
    with box.serve() as daemon:
        assert daemon.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert daemon.stop() == 0
    wal = box.database.with_name("results.db-wal")
    before = wal.stat().st_size
    assert index(box, "add", "metadata.order").returncode == 0
    assert wal.stat().st_size > before  # it was not moved into the database
    with box.serve() as daemon:
        assert daemon.stop() == 0
        assert daemon.logged("litestream_stopped")["is_replicated"] is True
    restored = tmp_path / "restored.db"
    done = box.run("replica", "restore", "--to", str(restored), "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    (plan,) = (
        json.loads(line)
        for line in box.run(
            "query", f"explain query plan {QUESTION}", "--db", str(restored)
        ).stdout.splitlines()
    )
    assert "USING INDEX json.metadata.order" in plan["detail"]


def test_the_benchmark_of_questions_answers_each(box: Box) -> None:
    folder = box.directory.parent
    box.deadline_s = 240
    done = box.run("bench", "query", "--rows", "2000", "--pairs", "1", "--dir", str(folder))
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)  # 1: a bound was missed, as one pair on a busy machine may
    for name in ("newest 50", "usage by hour, all", "p95 of latency by model", "WAL added by"):
        assert name in done.stdout
    assert [path.name for path in folder.iterdir()] == ["box"]
