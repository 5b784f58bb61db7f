"""A WAL that Litestream goes over unread: the checksum of its last frame is damaged."""

from pathlib import Path
from typing import Any

from support.daemon import DaemonProcess, until

__all__ = ["require_replicated", "require_unread", "rot_last_checksum", "waited"]


def rot_last_checksum(database: Path) -> None:
    """Of the newest frame in the WAL (sqlite.org/fileformat2.html)."""
    wal = database.with_name(f"{database.name}-wal")
    content = wal.read_bytes()
    frame = 24 + int.from_bytes(content[8:12], "big")
    last, at = 0, 32
    while content[at + 8 : at + 16] == content[16:24]:  # the salts
        last, at = at, at + frame
    assert last
    with wal.open("r+b") as file:
        file.seek(last + 20)
        file.write(bytes([content[last + 20] ^ 1]))


def waited(daemon: DaemonProcess, wait_s: int) -> tuple[str, bool]:
    """An answer's id, after it was held so long at most; whether it was told as replicated."""
    answer = daemon.post(
        "/v1/chat/completions",
        json={"model": "demo", "messages": [{"role": "user", "content": "hello"}]},
        headers={"x-edge-store-wait": f"replicated; timeout={wait_s}"},
    )
    assert answer.status_code == 200
    told = daemon.get(f"/v1/results/{answer.headers['x-edge-store-id']}/receipt").json()
    is_replicated = answer.headers["x-edge-store-durability"] == "replicated"
    assert not is_replicated or told["replicated"]["state"] == "replicated"
    return answer.headers["x-edge-store-id"], is_replicated


def require_replicated(daemon: DaemonProcess) -> None:
    """An answer is told as replicated."""
    until(lambda: waited(daemon, 30)[1], "an answer is replicated", 120)


def require_unread(daemon: DaemonProcess) -> None:
    """From now on nothing is told as replicated, and soon it is said why."""

    def cause() -> Any:
        assert not waited(daemon, 1)[1]
        return daemon.get("/readyz").json()["replica"]["cause"]

    until(lambda: cause() == "unread", "it is noticed", 120)
    newest, _ = waited(daemon, 1)
    told = daemon.get(f"/v1/results/{newest}/receipt").json()
    assert told["replicated"]["state"] != "replicated"
