"""Frames of a COMMIT whose flush failed lie in the WAL, where Litestream may read them: what it
replicates is the file all the same.
"""

import shutil
from pathlib import Path

import pytest
from support.daemon import Box, DaemonProcess, until
from support.load import Load
from support.replicating import contents
from support.syscall_faults import FLUSH, SyscallFaults, built_shim

from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore

ROUNDS = 4
COMMITS_FAILED = 8  # in a row: some are in the WAL while Litestream looks


def replica_state(daemon: DaemonProcess) -> str:
    return str(daemon.get("/readyz").json()["replica"]["state"])


async def test_replica_equals_the_file_after_failed_flushes(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    box = Box.init(
        tmp_path / "box",
        ENGINE__DEMO__TOKEN_DELAY_MS="1",
        REPLICA__ENABLED="true",
        RECORDER__BEAT_S="0.3",
    )
    location = parse_location(f"{box.directory}/replica")
    device_id = DeviceId(box.scalar("SELECT device_id FROM device"))
    faults = SyscallFaults(tmp_path / "control")
    environment = faults.environment(built_shim(tmp_path), box.database)
    with DaemonProcess(box, {**box.environ, **environment}) as daemon:
        for number in range(1, ROUNDS + 1):
            with Load(daemon.url, 8, f"{number}") as load:
                load.wait_acknowledged(20)
                faults.arm(1, lasting=True, kinds=FLUSH)
                until(lambda: faults.hits >= COMMITS_FAILED, "COMMITs have failed")
                faults.mend()
                daemon.logged("admission_opened", number=number)
        assert daemon.chat("the last").status_code == 200
        until(lambda: replica_state(daemon) == "ok", "litestream is up again")
        assert daemon.stop() == 0
    copy = tmp_path / "copy.db"
    await restore(location, device_id, copy, timeout_s=60)
    assert contents(copy) == contents(box.database)
    assert box.scalar("SELECT count(*) FROM losses") == 0
    box.proven()
