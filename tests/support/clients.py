"""What the tests of foreign clients share: a keyed box, and the row of what was asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.daemon import Box, DaemonProcess

__all__ = ["PLACE", "TOOL_PARAMETERS", "Keyed", "keyed"]

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
TOOL_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


class Keyed:
    """A daemon that asks for keys. ``key`` may generate and read what is its tenant's."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.url = daemon.url
        self.key = self.create("--tenant", "shop")

    def create(self, *options: str) -> str:
        box = self.daemon.box
        done = box.run("keys", "create", "app", *options, "--config", str(box.directory))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def row(self, prompt: str) -> dict[str, Any]:
        """The only result with that input, as /v1/results/{id} shows it to its tenant."""
        find = "SELECT id FROM results JOIN requests USING (seq) WHERE input_text = ?"
        found = self.daemon.get(
            f"/v1/results/{self.daemon.box.scalar(find, prompt)}",
            headers={"authorization": f"Bearer {self.key}"},
        )
        assert found.status_code == 200, found.text
        row: dict[str, Any] = found.json()
        return row


@contextmanager
def keyed(directory: Path) -> Iterator[Keyed]:
    """A demo box with keys, and at its end a clean stop and a whole chain."""
    box = Box.init(directory / "box", "--engine", "demo")
    with box.serve() as daemon:
        yield Keyed(daemon)
        assert daemon.stop() == 0
    box.proven()
