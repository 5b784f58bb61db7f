"""``fleet pull --watch`` goes on by itself through outages of its store: killed, slow, silent."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.daemon import EDGE_STORE, Box, DaemonProcess, rows, until
from support.flakyproxy import FlakyProxy
from support.s3server import S3Server

NAMES = ("box-a", "box-b")
AWAY_S = 120.0  # until a store that does not answer is told of, and until a pass has ended


class World:
    """Two boxes that replicate to a server, and a centre that watches it through a proxy."""

    def __init__(self, tmp_path: Path, server: S3Server, proxy: FlakyProxy) -> None:
        self.server, self.proxy = server, proxy
        self.copies = tmp_path / "fleet"
        self._report = tmp_path / "report.json"
        self._errors = tmp_path / "errors"
        self._tmp_path = tmp_path
        self.daemons: dict[str, DaemonProcess] = {}
        self.boxes: dict[str, Box] = {}

    def box(self, name: str) -> DaemonProcess:
        url = self.server.url("fleet")
        settings = {"REPLICA__ENABLED": "true", "REPLICA__URL": url}
        box = Box(self._tmp_path / name, **settings)
        box.environ |= {**self.server.environ, "EDGE_STORE_REPLICA__MONITOR_INTERVAL_S": "0.2"}
        done = box.run("init", str(box.directory), "--engine", "demo", "--device-id", name)
        assert done.returncode == 0, done.stderr
        self.boxes[name] = box
        return box.serve()

    @contextmanager
    def watching(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The centre, which is to be running until it is told to end."""
        url = f"s3://edge/fleet?endpoint={self.proxy.endpoint}"
        options = ("--watch", "0.2", "--attempts", "1", "--timeout", "10")
        where = ("--from", url, "--into", str(self.copies), "--report", str(self._report))
        with self._errors.open("wb") as errors:
            process = subprocess.Popen(
                [*EDGE_STORE, "fleet", "pull", *where, *options],
                env={**self.boxes["box-a"].environ},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(60)

    def chat(self) -> None:
        """One more result on each box."""
        for daemon in self.daemons.values():
            assert daemon.chat("hello").status_code == 200

    def are_here(self) -> bool:
        """Whether every result of every box is in its copy."""
        return all(
            (self.copies / f"{name}.db").exists() and self._ids(self.copies / f"{name}.db")
            == self._ids(box.database) for name, box in self.boxes.items()
        )  # fmt: skip

    @staticmethod
    def _ids(database: Path) -> set[str]:
        return {name for (name,) in rows(database, "SELECT id FROM results")}

    def told(self) -> str:
        """All that it has said."""
        return self._errors.read_text()

    def report(self) -> dict[str, Any]:
        """Of its last pass."""
        found: dict[str, Any] = json.loads(self._report.read_text())
        return found

    def is_away(self) -> bool:
        """Whether the last pass says that the store, or a box there, did not answer."""
        report = self.report() if self._report.exists() else {"unlisted": (), "boxes": ()}
        codes = {each.get("code") for each in (*report["unlisted"], *report["boxes"])}
        return "replication_error" in codes


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with (
        S3Server(tmp_path / "s3") as server,
        FlakyProxy(server.port) as proxy,
        ExitStack() as stack,
    ):
        made = World(tmp_path, server, proxy)
        for name in NAMES:
            made.daemons[name] = stack.enter_context(made.box(name))
        yield made


def test_a_watch_goes_on_through_an_outage_and_over_a_slow_line(world: World) -> None:
    world.chat()
    with world.watching() as process:
        until(world.are_here, "the first copies", AWAY_S)

        world.server.stop()
        world.chat()
        until(world.is_away, "it tells that the store is away", AWAY_S)
        assert not world.are_here(), "or this proves nothing"
        assert world.told()
        world.server.start()
        until(world.are_here, "what came during the outage", AWAY_S)
        until(lambda: not world.is_away(), "it tells that all is well", AWAY_S)

        world.proxy.delay_s, world.proxy.bytes_per_s = 0.2, 20_000.0
        world.proxy.drop()
        world.chat()
        until(world.are_here, "what came over a slow line", AWAY_S)

        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_watch_goes_on_when_a_store_that_answered_nothing_does_again(world: World) -> None:
    """Connections stay open, and nothing comes: each request has to run into its deadline."""
    world.chat()
    with world.watching() as process:
        until(world.are_here, "the first copies", AWAY_S)
        world.proxy.stall_after = world.proxy.passed
        world.proxy.drop()
        world.chat()
        until(world.is_away, "it tells that nothing moves", 2 * AWAY_S)
        assert not world.are_here(), "or this proves nothing"
        world.proxy.heal()
        until(world.are_here, "what came while nothing moved", 2 * AWAY_S)
        until(lambda: not world.is_away(), "it tells that all is well again", AWAY_S)
        assert process.poll() is None
