"""Batches as files and as requests, for tests of the queue in a real daemon."""

import json
from typing import Any

from support.daemon import Box, DaemonProcess, until

__all__ = [
    "ENDED",
    "batch_of",
    "ended",
    "line",
    "output_of",
    "pause",
    "retrieved",
    "submit",
    "text_of",
]

ENDED = ("completed", "failed", "expired", "cancelled")


def line(name: str, **changes: Any) -> dict[str, Any]:
    """One line of an input file: a chat, unless ``changes`` say otherwise."""
    body = {"model": "demo", "messages": [{"role": "user", "content": f"say {name}"}]}
    whole = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return {**whole, **changes}


def text_of(lines: list[dict[str, Any]]) -> bytes:
    """An input file."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def submit(daemon: DaemonProcess, text: bytes, **fields: Any) -> str:
    """Upload an input and begin a batch; its id."""
    sent = {"files": {"file": ("input.jsonl", text)}, "data": {"purpose": "batch"}}
    uploaded = daemon.post("/v1/files", **sent)
    assert uploaded.status_code == 200, uploaded.text
    body = {
        "input_file_id": uploaded.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    made = daemon.post("/v1/batches", json=body)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def retrieved(daemon: DaemonProcess, batch_id: str) -> dict[str, Any]:
    """The batch as the API shows it."""
    answer = daemon.get(f"/v1/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(daemon: DaemonProcess, batch_id: str, deadline_s: float = 60.0) -> dict[str, Any]:
    """The batch once it has ended."""

    def found() -> Any:
        batch = retrieved(daemon, batch_id)
        return batch if batch["status"] in ENDED else None

    batch: dict[str, Any] = until(found, f"{batch_id} has ended", deadline_s)
    return batch


def output_of(daemon: DaemonProcess, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    assert file_id is not None
    answer = daemon.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [json.loads(one) for one in answer.text.splitlines()]


def pause(daemon: DaemonProcess) -> None:
    """Pause the queue: from now on no line is begun. The command ends once that is committed, of
    which the queue learns a moment later.
    """
    box = daemon.box
    done = box.run("queue", "pause", "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    until(lambda: daemon.get("/readyz").json()["queue"]["is_paused"], "the queue is paused")


def batch_of(box: Box, batch_id: str) -> dict[str, list[str]]:
    """The statuses of all results of each line, sorted."""
    found: dict[str, list[str]] = {}
    for name, status in box.rows(
        "SELECT custom_id, status FROM results WHERE batch_id = ? ORDER BY status", batch_id
    ):
        found.setdefault(name, []).append(status)
    return found
