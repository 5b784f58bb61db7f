"""What a look at the health of N boxes costs, by the command, with a real S3 server.

``python -m support.fleet_health_figures FOLDER N…``: heads of N boxes, and a copy of 100 results of
each; then three looks: the first, one at which nothing has changed, and one at which a tenth of the
heads has. CPU is the command's, user and system; its start alone is shown before.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from support.fleet_health import make_copy
from support.s3server import BUCKET, S3Server

from edge_store.ids import DeviceId
from edge_store.replica.heads import Head
from edge_store.replica.machine import MachineState

RESULTS = 100
MACHINE = MachineState(disk_bytes=10**11, disk_free_bytes=5 * 10**10, clock_synced=True)


def measured(command: list[str], environ: dict[str, str]) -> tuple[float, int, str]:
    """CPU-seconds, the most memory in bytes, and what it wrote."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environ, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode in (0, 1), "it failed"
        output.seek(0)
        return used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss, output.read()


class Fleet:
    """So many boxes, each with the same history."""

    def __init__(self, folder: Path, boxes: int) -> None:
        self.folder = folder / "fleet"
        self.folder.mkdir(parents=True)
        self.server = S3Server(folder / "s3")
        self._heads = folder / "s3" / BUCKET / "fleet" / "heads"
        self._heads.mkdir(parents=True)
        copy, head = make_copy(folder, "box", RESULTS)
        for number in range(boxes):
            shutil.copyfile(copy, self.folder / f"box-{number:05}.db")
            self.put(number, head)
        self._boxes, self._head = boxes, head

    def put(self, number: int, head: Head) -> None:
        """The head of one box."""
        name = f"box-{number:05}"
        head = msgspec.structs.replace(head, device_id=DeviceId(name), machine=MACHINE)
        content = msgspec.json.format(msgspec.json.encode(head), indent=2)
        (self._heads / f"{name}.json").write_bytes(content)
        file = self._heads.parent / name / "results.db" / "0000" / f"{1:016x}-{1:016x}.ltx"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def change_a_tenth(self) -> None:
        """They go on."""
        further = msgspec.structs.replace(self._head, seq=self._head.seq + 1)
        for number in range(0, self._boxes, 10):
            self.put(number, further)

    def look(self, what: str) -> None:
        """One, and its line."""
        edge_store = (sys.executable, "-m", "edge_store", "fleet", "health", "--json")
        where = ("--from", self.server.url("fleet"), "--in", str(self.folder))
        cpu_s, memory, output = measured(
            [*edge_store, *where], {**os.environ, **self.server.environ}
        )
        found: dict[str, Any] = json.loads(output.splitlines()[-1])["summary"]
        assert (found["boxes"], found["wrong"]) == (self._boxes, 0), found
        print(
            f"{self._boxes:>6} boxes, {what:<16} {cpu_s:6.2f} CPU-s, {memory / 1e6:4.0f} MB, "
            f"{found['heads_read']} heads read",
            flush=True,
        )


def main() -> None:
    folder = Path(sys.argv[1])
    start_s, memory, _ = measured(
        [sys.executable, "-m", "edge_store", "fleet", "health", "--help"], dict(os.environ)
    )
    print(f"load {os.getloadavg()[0]:.1f}; --help alone {start_s:.2f} CPU-s, {memory / 1e6:.0f} MB")
    for boxes in map(int, sys.argv[2:]):
        fleet = Fleet(folder / str(boxes), boxes)
        with fleet.server:
            fleet.look("the first look")
            fleet.look("nothing changed")
            fleet.change_a_tenth()
            fleet.look("a tenth changed")
        shutil.rmtree(folder / str(boxes))


if __name__ == "__main__":
    main()
