"""SIGKILL under load: whatever a caller saw the end of is in the file, and the rest is counted."""

import random
from pathlib import Path

from support.daemon import Box
from support.load import Load

CONNECTIONS = 32
ROUNDS = 4


def test_acknowledged_results_survive_sigkill(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", ENGINE__DEMO__TOKEN_DELAY_MS="1")
    loads: dict[str, Load] = {}
    for _ in range(ROUNDS):
        with box.serve() as daemon:
            boot_id = daemon.get("/readyz").json()["boot_id"]
            with Load(daemon.url, CONNECTIONS, boot_id) as load:
                load.wait_acknowledged(random.randint(1, 300))
                daemon.kill()
        loads[boot_id] = load
    with box.serve() as daemon:  # it starts again, as after any stop
        assert daemon.stop() == 0

    stored = box.texts()
    for load in loads.values():
        assert {key: stored.get(key) for key in load.acknowledged} == load.acknowledged
    box.proven()

    states = {row[0]: row for row in box.rows(
        "SELECT boot_id, state, admitted, interrupted, in_flight, percent FROM completeness"
    )}  # fmt: skip
    assert len(states) == ROUNDS + 1
    for boot_id, load in loads.items():
        _, state, admitted, interrupted, in_flight, percent = states[boot_id]
        recorded = {n for (n,) in box.rows(
            "SELECT boot_seq FROM results WHERE boot_id = ?", boot_id
        )}  # fmt: skip
        gaps = set(range(1, admitted + 1)) - recorded
        assert (state, in_flight) == ("interrupted", 0)
        # The mark of a COMMIT counts what it carries: only what each caller had last under way
        # can be beyond the newest mark, or missing below it.
        assert recorded <= set(range(1, admitted + 1))
        assert admitted <= load.sent <= admitted + CONNECTIONS
        assert len(gaps) == interrupted <= CONNECTIONS
        assert percent == 1_000_000 * (admitted - interrupted) // admitted / 10_000
        assert admitted - interrupted >= len(load.acknowledged)
