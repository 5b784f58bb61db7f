"""What a refused start says to do brings the box back, results and all."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from support.daemon import Box, chat_until_replicated


def test_the_commands_of_a_refused_start_bring_the_box_back(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "my box", REPLICA__ENABLED="true")
    with box.serve() as daemon:
        copied = box.scalar("SELECT device_id FROM device")
        ids = [daemon.chat(f"question {n}").json()["id"] for n in range(5)]
        chat_until_replicated(daemon)
        assert daemon.stop() == 0
        assert daemon.logged("litestream_stopped")["is_replicated"] is True
    (replica,) = (path for path in tmp_path.rglob(copied) if path.is_dir())
    shutil.copytree(replica, replica.with_name("box-other"))  # now the prefix has two boxes
    for byte in (b"\xa5", b"\x5a"):  # again, when the evidence of the first is there
        damaged = byte * box.database.stat().st_size
        box.database.write_bytes(damaged)
        assert len(restored(box, 65)) == 4
        kept = [(folder / "results.db").read_bytes() for folder in evidence(box)]
        assert kept[-1] == damaged
        serves(box, ids)
    assert len(kept) == 2

    for path in box.directory.glob("results.db*"):
        path.unlink()
    shutil.rmtree(box.directory / "litestream")
    assert len(restored(box, 66)) == 2, "nothing is left that could be moved"
    assert len(evidence(box)) == 2
    serves(box, ids)
    box.proven()


def evidence(box: Box) -> list[Path]:
    return sorted(box.directory.glob("damaged-20??????T??????Z"))


def restored(box: Box, code: int) -> list[str]:
    """Do what a refused start says."""
    done = box.run("serve", "--config", str(box.directory), "--port", "0")
    assert done.returncode == code, done.stderr
    commands = [line for line in done.stderr.splitlines() if line.startswith("    ")]
    assert "replica restore" in commands[0]

    ours = f'edge-store() {{ {shlex.quote(sys.executable)} -m edge_store "$@"; }}'
    subprocess.run(
        ["bash", "-ec", "\n".join([ours, *commands])],
        env={**os.environ, **box.environ},
        check=True,
        capture_output=True,
        timeout=240,
    )
    return commands


def serves(box: Box, ids: list[str]) -> None:
    with box.serve() as daemon:
        assert [daemon.get(f"/v1/results/{id_}").status_code for id_ in ids] == [200] * 5
        assert daemon.chat("and on").status_code == 200
        assert daemon.stop() == 0
