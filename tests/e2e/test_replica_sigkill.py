"""A daemon killed under load and started again at once: its replica holds its very rows."""

import random
from pathlib import Path

from support.daemon import DEADLINE_S, Box
from support.load import Load
from support.replicating import contents

from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location
from edge_store.replica.restore import restore

CONNECTIONS = 16
ROUNDS = 6
SEED = 20261122


async def test_replica_equals_the_file_after_sigkill_and_restart(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    box = Box.init(
        tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="1", REPLICA__ENABLED="true",
        REPLICA__STOP_TIMEOUT_S=str(DEADLINE_S),
    )  # fmt: skip
    location = parse_location(f"{box.directory}/replica")
    device_id = DeviceId(box.scalar("SELECT device_id FROM device"))
    for number in range(ROUNDS):
        with box.serve() as daemon:
            boot_id = daemon.get("/readyz").json()["boot_id"]
            with Load(daemon.url, CONNECTIONS, boot_id) as load:
                load.wait_acknowledged(moments.randint(20, 200))
                daemon.kill()
        assert load.acknowledged, "the run must answer something, or it proves nothing"
        with box.serve() as daemon:
            daemon.logged("litestream_started")  # it waits 5 s for its path, then goes on without
            assert daemon.stop(2 * DEADLINE_S) == 0
        copy = tmp_path / f"copy-{number}.db"
        await restore(location, device_id, copy, timeout_s=60)
        assert contents(copy) == contents(box.database)
