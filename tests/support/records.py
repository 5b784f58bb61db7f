"""Results to store, and a database to store them in."""

import hashlib
from pathlib import Path
from typing import Any

from edge_store.identity import create_identity
from edge_store.ids import BootId, DeviceId, new_result_id
from edge_store.recorder.boot import begin_boot
from edge_store.result import Boot, Content, Operation, Output, Result, Status
from edge_store.schema import migrate
from edge_store.sqlite import Connection, open_writer

DEVICE = DeviceId("box-test")


def new_database(path: Path, device_id: DeviceId = DEVICE) -> tuple[Connection, Boot]:
    """A migrated database with one boot begun, open for writing."""
    connection = open_writer(path)
    migrate(connection)
    create_identity(connection, device_id)
    boot = begin_boot(
        connection, device_id=device_id, version="0", engine="demo", engine_version="0"
    )
    return connection, boot


def make_result(boot_seq: int = 1, boot_id: str = "boot", **changes: Any) -> Result:
    """A completed chat; ``changes`` replace fields."""
    text = f"answer {boot_seq}"
    request = b'{"messages": [{"role": "user", "content": "hello"}]}'
    fields: dict[str, Any] = {
        "id": new_result_id(),
        "device_id": DEVICE,
        "boot_id": BootId(boot_id),
        "boot_seq": boot_seq,
        "operation": Operation.CHAT,
        "endpoint": "/v1/chat/completions",
        "status": Status.COMPLETED,
        "request_model": "demo",
        "response_model": "demo",
        "engine": "demo",
        "engine_version": "0",
        "created_at": 1_760_000_000_000,
        "completed_at": 1_760_000_000_010,
        "clock_synced": True,
        "latency_ms": 10.5,
        "queue_ms": 0.0,
        "input_tokens": 3,
        "output_tokens": 2,
        "finish_reason": "stop",
        "stream": False,
        "request_fingerprint": hashlib.sha256(request).digest(),
        "http_status": 200,
        "outputs": (Output(choice_index=0, output_text=text, finish_reason="stop"),),
        "content": Content(input_text="hello", request_body=request, response_body=text.encode()),
    }
    return Result(**{**fields, **changes})
