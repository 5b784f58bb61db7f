"""One power cut of ``scripts/powercut``: check what those before have left, load, cut.

The cut is the file system's own (``EXT4_IOC_SHUTDOWN`` without a flush of its journal, which is how
xfstests does it): from one instant on nothing reaches the disk, and what was only in memory is
lost. What a caller saw before that instant must be on the disk. What it saw in the moments after is
counted apart, as nobody sees anything after a real cut: ext4 was seen to answer a flush that was
under way at that instant with success. A writer with ``synchronous=OFF`` runs beside the daemon, on
the same disk: that it loses rows shows that the cut is one.
"""

import argparse
import fcntl
import json
import os
import random
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from support.daemon import DEADLINE_S, rows, until
from support.load import Load

from edge_store.chain import verify_chain
from edge_store.sqlite import check_integrity, driver, open_reader

URL = "http://127.0.0.1:8642"
CONNECTIONS = 16
LOAD_S = (0.2, 2.0)
EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
WITHOUT_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH


def cut_power(disk: Path) -> None:
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
    finally:
        os.close(descriptor)


class CarelessWriter:
    """Commits one row after the other with ``synchronous=OFF`` until its disk is gone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.path = folder / "careless.db"
        self.committed = 0
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "it writes on though the disk is gone"

    def _write(self) -> None:
        with suppress(driver.Error):
            connection = driver.connect(str(self.path), isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE IF NOT EXISTS kept (n INTEGER, filler BLOB)")
            while True:
                connection.execute("INSERT INTO kept VALUES (?, randomblob(1000))", (1,))
                self.committed += 1
                time.sleep(0.002)  # it shares two processors with the daemon

    def stored(self) -> int:
        """Rows that a new connection finds; none when the file is damaged or not there."""
        if not self.path.exists():
            return 0
        try:
            connection = driver.connect(str(self.path))
            with suppress(driver.Error):
                return int(connection.execute("SELECT count(*) FROM kept").fetchone()[0])
        finally:
            connection.close()
        return 0


def check(database: Path, seen: dict[str, Any]) -> tuple[int, int]:
    """Everything acknowledged before a cut is there. How many results there are, and how many of
    those acknowledged after the newest cut are not there.
    """
    connection = open_reader(database)
    try:
        connection.execute("BEGIN")
        assert check_integrity(connection, full=True) == "ok"
        found = verify_chain(connection)
        assert found.faults == (), found.faults
        stored = dict(connection.execute(
            "SELECT r.id, o.output_text FROM results AS r JOIN outputs AS o USING (seq)"
        ))  # fmt: skip
    finally:
        connection.close()
    lost = {key for key, text in seen["acknowledged"].items() if stored.get(key) != text}
    assert not lost, f"{len(lost)} of {len(seen['acknowledged'])} answers are lost: {sorted(lost)}"
    for boot_id, (acknowledged, told) in seen["boots"].items():
        ((state, admitted, completed, ended, missing),) = rows(
            database,
            "SELECT state, admitted, completed, incomplete + failed + cancelled, interrupted "
            "FROM completeness WHERE boot_id = ?",
            boot_id,
        )
        assert state == "interrupted", state
        assert missing == admitted - completed - ended <= CONNECTIONS, (admitted, missing)
        # Told are those after the cut, too. Each caller had one request more under way.
        assert acknowledged <= completed <= told + CONNECTIONS, completed
    return found.results, sum(key not in stored for key in seen["after"])


def load_and_cut(disk: Path, moment_s: float, seen: dict[str, Any]) -> None:
    boot_id = httpx.get(f"{URL}/readyz", timeout=DEADLINE_S).json()["boot_id"]
    careless = CarelessWriter(disk / "careless")
    before = careless.stored()
    with Load(URL, CONNECTIONS, boot_id) as load, careless:
        load.wait_acknowledged(1)
        time.sleep(moment_s)
        acknowledged, committed = dict(load.acknowledged), careless.committed
        cut_power(disk)
    seen["acknowledged"] |= acknowledged
    seen["boots"][boot_id] = len(acknowledged), len(load.acknowledged)
    seen["after"] = [key for key in load.acknowledged if key not in acknowledged]
    seen["careless"] = before + committed


def is_ready() -> bool:
    try:
        return httpx.get(f"{URL}/readyz", timeout=DEADLINE_S).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="support.powercut", description=__doc__)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--seen", type=Path, required=True, help="what callers saw, kept here")
    for name in ("cut", "cuts", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    seen: dict[str, Any] = {"acknowledged": {}, "boots": {}, "after": [], "careless": 0}
    seen["careless_lost"] = 0
    if arguments.seen.exists():
        seen = json.loads(arguments.seen.read_text())
    until(is_ready, "the daemon is ready", 2 * DEADLINE_S)

    stored, gone = check(arguments.disk / "results.db", seen)
    if arguments.cut:
        careless = CarelessWriter(arguments.disk / "careless")
        lost = seen["careless"] - careless.stored()
        seen["careless_lost"] += lost
        print(
            f"cut {arguments.cut}: {len(seen['acknowledged'])} answers acknowledged, 0 lost "
            f"({stored} stored; {gone} of {len(seen['after'])} seen after the cut are gone); "
            f"a writer with synchronous=OFF lost {lost} rows",
            flush=True,
        )
    if arguments.cut < arguments.cuts:
        moments = random.Random(arguments.seed + arguments.cut)
        load_and_cut(arguments.disk, moments.uniform(*LOAD_S), seen)
        arguments.seen.write_text(json.dumps(seen))
        return 0
    assert seen["careless_lost"] > 0, "nobody lost anything: these were no power cuts"
    print(
        f"PASSED: {arguments.cuts} power cuts, {len(seen['acknowledged'])} acknowledged answers, "
        f"0 lost; the control lost {seen['careless_lost']} rows"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
