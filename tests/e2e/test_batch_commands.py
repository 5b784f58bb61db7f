"""``edge-store batch`` and ``edge-store queue`` against a real daemon, and without one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.batches import line, retrieved, submit, text_of
from support.daemon import Box, DaemonProcess, until
from support.s3server import free_port

LINES = 2000  # they take five minutes, which no command that is to come in between does


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("commands") / "box")
    with box.serve() as daemon:
        yield daemon


def test_a_batch_is_submitted_listed_and_fetched(daemon: DaemonProcess, tmp_path: Path) -> None:
    source = tmp_path / "requests.jsonl"
    source.write_bytes(text_of([line("good"), line("bad", body={"messages": 7})]))
    done = daemon.box.run("batch", "submit", str(source), "--wait", "--url", daemon.url)
    assert done.returncode == 0, done.stderr
    batch_id = done.stdout.strip()
    assert "1 completed, 1 failed, of 2" in done.stderr

    listed = daemon.box.run("batch", "ls", "--url", daemon.url, "--nl")
    rows = [json.loads(one) for one in listed.stdout.splitlines()]
    (row,) = [one for one in rows if one["id"] == batch_id]
    assert (row["status"], row["total"]) == ("completed", 2)
    shown = daemon.box.run("batch", "show", batch_id, "--url", daemon.url)
    assert json.loads(shown.stdout) == retrieved(daemon, batch_id)

    fetched = daemon.box.run("batch", "fetch", batch_id, "--url", daemon.url)
    assert json.loads(fetched.stdout)["custom_id"] == "good"
    target = tmp_path / "errors.jsonl"
    fetched = daemon.box.run(
        "batch", "fetch", batch_id, "--errors", "--to", str(target), "--url", daemon.url
    )
    assert (fetched.returncode, fetched.stdout) == (0, "")
    assert json.loads(target.read_text())["custom_id"] == "bad"
    assert list(tmp_path.glob(".*")) == []

    late = daemon.box.run("batch", "cancel", batch_id, "--url", daemon.url)
    assert (late.returncode, "cannot be cancelled" in late.stderr) == (1, True)


def test_why_a_batch_failed_is_said_by_who_waits(daemon: DaemonProcess, tmp_path: Path) -> None:
    source = tmp_path / "requests.jsonl"
    source.write_bytes(text_of([line("same"), line("same"), line("other", method="GET")]))
    done = daemon.box.run("batch", "submit", str(source), "--wait", "--url", daemon.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "  line 2: line 1 has the same `custom_id` (duplicate_custom_id)",
        "  line 3: `method` = 'GET' is not POST (invalid_method)",
    ]


def test_a_batch_that_is_not_there_is_said_to_be_so(daemon: DaemonProcess) -> None:
    for command in ("show", "cancel", "fetch"):
        done = daemon.box.run("batch", command, "batch_x", "--url", daemon.url)
        assert (done.returncode, done.stderr) == (1, "edge-store: there is no batch 'batch_x'\n")
    done = daemon.box.run("batch", "ls", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_a_running_queue_is_paused_resumed_and_retried(daemon: DaemonProcess) -> None:
    box, config = daemon.box, str(daemon.box.directory)

    def is_paused() -> bool:
        return bool(daemon.get("/readyz").json()["queue"]["is_paused"])

    assert box.run("queue", "pause", "--config", config).stdout == "the queue is paused\n"
    until(is_paused, "the daemon has learnt of it")
    again = box.run("queue", "pause", "--config", config)
    assert again.stdout == "the queue was paused already\n"
    assert box.run("queue", "resume", "--config", config).stdout == "the queue is resumed\n"
    until(lambda: not is_paused(), "the daemon has learnt of it")
    none = box.run("queue", "retry", "batch_x", "--config", config)
    assert (none.returncode, "there is no batch" in none.stderr) == (1, True)


def test_a_drained_queue_has_no_line_in_flight(tmp_path: Path) -> None:
    port = str(free_port())
    box = Box.init(
        tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="20", QUEUE__SLOTS_MAX="4", SERVER__PORT=port
    )
    config = ("--config", str(box.directory))
    drained = box.run("queue", "drain", *config)
    assert (drained.returncode, drained.stdout) == (0, "the queue is paused\n")
    box.run("queue", "resume", *config)
    with DaemonProcess(box, box.environ, port=port) as daemon:
        batch_id = submit(daemon, text_of([line(f"line-{n}") for n in range(LINES)]))
        until(lambda: retrieved(daemon, batch_id)["request_counts"]["completed"], "it runs")
        drained = box.run("queue", "drain", *config)
        assert drained.stdout == "the queue is paused\nno line is in flight\n"
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results WHERE status = 'cancelled'") == 0
    assert 0 < box.scalar("SELECT count(*) FROM results") < LINES
