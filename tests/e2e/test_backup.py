"""A backup of a box that is at work is one of its states, whole; and can be served again."""

import json
import subprocess
import threading
from pathlib import Path

from support.daemon import Box


def run(box: Box, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = box.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_backup_of_a_box_at_work_is_a_state_of_it_and_can_be_served(
    tmp_path: Path,
) -> None:
    box = Box.init(tmp_path / "box")
    stop = threading.Event()
    with box.serve() as daemon:
        daemon.chat("first")

        def ask() -> None:
            while not stop.is_set():
                daemon.chat("more")

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            before = box.scalar("SELECT max(seq) FROM results")
            made = run(box, "backup", str(tmp_path), "--json", "--config", str(box.directory))
            after = box.scalar("SELECT max(seq) FROM results")
        finally:
            stop.set()
            asking.join()
        manifest = json.loads(made.stdout)
        file = tmp_path / manifest["file"]
        assert json.loads(file.with_name(f"{file.name}.json").read_text()) == manifest
        assert before <= manifest["seq"] <= after
        assert manifest["results"] == manifest["seq"]
        chain = box.scalar("SELECT count(*) FROM commits WHERE digest = ?",
                           bytes.fromhex(manifest["newest_digest"]))  # fmt: skip
        assert chain == 1
        assert "faults" in run(box, "verify", str(file)).stdout
        assert daemon.stop() == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    again = Box(tmp_path / "again")
    again.directory.mkdir()
    (again.directory / "edge-store.toml").write_text("")
    run(box, "restore", str(file), "--to", str(again.database))
    with again.serve() as daemon:
        daemon.chat("onwards")
    assert again.proven().results == manifest["results"] + 1
    assert again.scalar("SELECT count(*) FROM timelines") == 2
    newest = again.rows("SELECT seq, timeline FROM results ORDER BY seq DESC LIMIT 2")
    assert [seq for seq, _ in newest] == [manifest["seq"] + 1, manifest["seq"]]
    assert newest[1][1] == manifest["timeline"] != newest[0][1]
