"""What a refused start says to do brings the box back, results and all."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from support.daemon import Box


def test_the_commands_of_a_refused_start_bring_the_box_back(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "my box", REPLICA__ENABLED="true")
    with box.serve() as daemon:
        ids = [daemon.chat(f"question {n}").json()["id"] for n in range(5)]
        assert daemon.stop() == 0
        assert daemon.logged("litestream_stopped")["is_replicated"] is True
    damaged = b"\xa5" * box.database.stat().st_size
    box.database.write_bytes(damaged)

    done = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert done.returncode == 65, done.stderr
    commands = [line for line in done.stderr.splitlines() if line.startswith("    ")]
    assert "replica restore" in commands[0]

    ours = f'edge-store() {{ {shlex.quote(sys.executable)} -m edge_store "$@"; }}'
    subprocess.run(
        ["bash", "-ec", "\n".join([ours, *commands])],
        env={**os.environ, **box.environ},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (box.directory / "damaged" / "results.db").read_bytes() == damaged
    with box.serve() as daemon:
        assert [daemon.get(f"/v1/results/{id_}").status_code for id_ in ids] == [200] * 5
        assert daemon.chat("and on").status_code == 200
        assert daemon.stop() == 0
    box.proven()
