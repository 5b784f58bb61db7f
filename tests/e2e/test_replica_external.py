"""A Litestream that is the operator's own: run as docs/operations.md says, looked at and asked."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.daemon import ROOT, Box, until
from support.replicating import DEADLINE_S, Database, contents
from support.s3server import BUCKET, S3Server
from support.unread import require_unread, rot_last_checksum, waited

from edge_store.replica import control
from edge_store.wal import checkpoint

LITESTREAM = Path(sys.executable).with_name("litestream")


def as_documented(box: Box, url_folder: Path) -> Path:
    """The YAML of the page, with this box's folders, and a folder as the replica."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml\n(socket:.*?)^```", page, re.MULTILINE | re.DOTALL)
    text = text.replace("/run/edge-store-litestream", str(box.directory))
    text = text.replace("/var/lib/edge-store", str(box.directory))
    replica = {"type": "file", "path": f"{url_folder}/box-1/results.db", "sync-interval": "1s"}
    text, replaced = re.subn(
        r"  replica:\n(    .*\n)+", f"  replica: {json.dumps(replica)}\n", text
    )
    assert replaced == 1
    config = box.directory / "litestream.yml"
    config.write_text(text)
    return config


@contextmanager
def unit(config: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / "litestream.log").open("ab") as log:
        process = subprocess.Popen(
            [LITESTREAM, "replicate", "-no-expand-env", "-config", config],
            env={"PATH": "/usr/bin:/bin", **environ},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(
        tmp_path / "box",
        "--device-id",
        "box-1",
        REPLICA__ENABLED="true",
        REPLICA__MODE="external",
        REPLICA__SOCKET=str(tmp_path / "box" / "litestream.sock"),
        REPLICA__URL=f"file://{tmp_path}/replica",
        REPLICA__STOP_TIMEOUT_S="50",
        REPLICA__DRILL_IDLE_S="0",  # the machine may be full
    )


def test_foreign_litestream_is_looked_at_told_to_pause_and_never_ended(
    tmp_path: Path, box: Box
) -> None:
    config = as_documented(box, tmp_path / "replica")
    arguments = ("--config", str(box.directory))
    with box.serve() as daemon:

        def replica() -> dict[str, object]:
            found = daemon.get("/readyz").json()["replica"]
            assert isinstance(found, dict)
            return found

        assert daemon.chat("hello").status_code == 200
        until(lambda: replica()["cause"] == "not_running", "it is told")
        with unit(config) as foreign:
            until(lambda: replica()["confirmed"], "it is seen, and has the result")
            head = tmp_path / "replica" / "heads" / "box-1.json"
            assert box.run("replica", "pause", *arguments).returncode == 0
            assert replica()["cause"] == "paused"
            assert daemon.chat("while it is paused").status_code == 200
            assert box.run("replica", "resume", *arguments).returncode == 0
            until(lambda: replica()["state"] == "ok" and replica()["lag_s"] == 0.0, "it goes on")
            until(head.exists, "the head is told")
            assert replica()["health"]["foreign_writers"] == []  # type: ignore[index]
            assert daemon.stop() == 0
            assert foreign.poll() is None
        assert (box.directory / "results.db-wal").stat().st_size > 0, "nobody has closed it last"
    copy = box.directory / "copy.db"
    done = box.run("replica", "restore", "--to", str(copy), *arguments)
    assert done.returncode == 0, done.stderr
    assert contents(copy) == contents(box.database)


def test_killed_daemon_starts_again_beside_the_foreign_litestream(tmp_path: Path, box: Box) -> None:
    with unit(as_documented(box, tmp_path / "replica")):
        until(lambda: list((tmp_path / "replica").rglob("*.ltx")), "it is up before the daemon")
        with box.serve() as daemon:
            assert daemon.chat("hello").status_code == 200
            until(lambda: daemon.get("/readyz").json()["replica"]["confirmed"], "it is replicated")
            daemon.kill()
        with box.serve() as daemon:
            assert daemon.chat("again").status_code == 200
            until(lambda: daemon.get("/readyz").json()["replica"]["confirmed"], "it goes on")
            assert daemon.stop() == 0
    copy = box.directory / "copy.db"
    done = box.run("replica", "restore", "--to", str(copy), "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    assert contents(copy) == contents(box.database)


@pytest.mark.slow
def test_what_a_foreign_litestream_does_not_see_is_never_told_as_replicated(
    tmp_path: Path, box: Box
) -> None:
    config = as_documented(box, tmp_path / "replica")
    arguments = ("--config", str(box.directory), "--json")
    with box.serve() as daemon:
        with unit(config):
            until(lambda: waited(daemon, 5)[1], "it replicates")
            rot_last_checksum(box.database)
            require_unread(daemon)
            (failed,) = json.loads(box.run("replica", "drill", *arguments).stdout)["drills"]
            assert "it ends at seq" in failed["proof"]["failure"], failed
            assert "goes on as before" in daemon.logged("replica_not_healed")["error"]
            assert not waited(daemon, 1)[1]
            until(
                lambda: "restart" in (daemon.get("/readyz").json()["replica"]["error"] or ""),
                "it is said what is to be done",
            )
        with unit(config):
            until(lambda: waited(daemon, 5)[1], "the new one replicates")
            (passed,) = json.loads(box.run("replica", "drill", *arguments).stdout)["drills"]
            assert passed["proof"]["failure"] is None, passed


async def test_foreign_litestream_lets_go_while_the_store_is_away(tmp_path: Path) -> None:
    database = Database(tmp_path / "results.db", "box-1")
    socket = tmp_path / "litestream.sock"
    with S3Server(tmp_path / "s3") as s3:
        replica: dict[str, Any] = {
            "type": "s3",
            "bucket": BUCKET,
            "path": "p",
            "endpoint": s3.endpoint,
        }
        replica |= {"region": "us-east-1", "force-path-style": True}
        dbs = [{"path": str(database.path), "replica": replica}]
        config = tmp_path / "litestream.yml"
        config.write_text(
            json.dumps({"socket": {"enabled": True, "path": str(socket)}, "dbs": dbs})
        )
        with unit(config, **s3.environ):
            asked = control.Control(socket, database.path)
            async with asyncio.timeout(DEADLINE_S):
                while not await asked.is_up():  # noqa: ASYNC110  (the socket is there earlier)
                    await asyncio.sleep(0.05)
            database.write(1)
            await asked.sync(60)
            s3.stop()
            database.write(1)
            await asked.stop_database()
            assert checkpoint(database.connection), "nobody holds the WAL"
            await asked.close()
    database.close()
