"""The daemon pushes what it commits, as it is stored, through SIGKILL and restarts."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.daemon import Box, DaemonProcess, until
from support.sinking import Receiver, receiver

from edge_store.sinks.webhook import signature

SECRET = {"SINK_HOOK": "geheim"}


def sinking(tmp_path: Path, hook: Receiver, **settings: str) -> Box:
    box = Box.init(tmp_path / "box", **settings)
    add(box, "hook", hook, "timeout_s = 300")  # what it had no answer to is sent again
    return box


def add(box: Box, name: str, hook: Receiver, more: str = "") -> None:
    with (box.directory / "edge-store.toml").open("a", encoding="utf-8") as file:
        file.write(f'\n[[sinks]]\nname = "{name}"\nkind = "webhook"\nurl = "{hook.url}"\n{more}\n')


def in_order(box: Box) -> list[str]:
    return [name for (name,) in box.rows("SELECT id FROM results ORDER BY seq")]


def delivered(daemon: DaemonProcess, sink: str) -> float | None:
    """Since its start."""
    return daemon.metrics().get(f'edge_store_sink_delivered_total{{sink="{sink}"}}')


def standing(box: Box) -> dict[str, Any]:
    done = box.run("sinks", "ls", "--nl", "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    return dict(row)


def test_results_are_pushed_signed_in_order_redacted_and_go_on_after_a_stop(tmp_path: Path) -> None:
    with receiver() as hook:
        box = sinking(tmp_path, hook, PRIVACY__DETECTORS='["email"]')
        config = ("--config", str(box.directory))
        with box.serve(**SECRET) as daemon:
            for number in range(3):
                daemon.chat(f"question {number}, answer to ada@example.com")
            assert hook.wait(3) == in_order(box)
            until(lambda: delivered(daemon, "hook") == 3, "it knows that they were taken")
            tried = box.run("sinks", "test", "hook", *config)
            assert "took a test" in tried.stdout, tried.stderr
            assert daemon.stop() == 0
        sent = hook.taken[0]
        assert "question 0" in sent["input_text"]
        assert sent["outputs"][0]["output_text"] == box.texts()[sent["id"]]
        for headers, body, _ in hook.requests:
            stamp = int(headers["webhook-timestamp"])
            signed = signature("geheim", headers["webhook-id"], stamp, body)
            assert headers["webhook-signature"] == signed
            assert b"ada@example.com" not in body
        assert standing(box)["delivered"] == 3
        with box.serve(**SECRET) as daemon:
            daemon.chat("one more")
            assert hook.wait(4) == in_order(box)
            assert hook.taken[-1]["seq"] == 4


def test_sigkill_under_load_loses_nothing_while_another_sink_hangs(tmp_path: Path) -> None:
    with receiver() as hook, receiver() as hangs:
        box = Box.init(tmp_path / "box")
        add(box, "hook", hook, "batch_rows = 7\npause_s = 0.02")
        add(box, "hangs", hangs)
        hangs.plan = ["hang"] * 1000
        hook.plan = ["500", "200", "cut"]
        with box.serve() as daemon, ThreadPoolExecutor(4) as pool:
            done = [pool.submit(daemon.chat, f"question {n}") for n in range(60)]
            until(lambda: sum(each.done() for each in done) > 20, "a third is answered")
            daemon.kill()
        acked = sum(each.exception() is None and each.result().is_success for each in done)
        with box.serve() as daemon:
            stored = in_order(box)
            assert len(stored) >= acked > 0
            ids = hook.wait(len(stored))
            until(lambda: hangs.requests, "the other one was asked, too")
            assert hangs.ids == []
            assert daemon.stop() == 0, "nor does it hold up a stop"
        assert list(dict.fromkeys(ids)) == stored
