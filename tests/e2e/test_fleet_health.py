"""A centre finds dead, late, tampered and duplicate boxes among real ones, and tells it once."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from support.daemon import Box, until
from support.receiving import Hook, hook

from edge_store.cli.fleet import fleet as fleet_group
from edge_store.sqlite import open_writer

NAMES = ("dead", "idle", "late", "tampered")


class Fleet:
    """Four boxes that have replicated and been pulled, and another one under the id of one."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "fleet"
        self.textfile = tmp_path / "fleet.prom"
        self._heads = tmp_path / "replicas" / "heads"
        self._boxes = [self._made(tmp_path / name) for name in NAMES]
        self._second = self._made(tmp_path / "second")
        self._centre = self._boxes[0]
        self.folder.mkdir()
        (self.folder / "fleet.toml").write_text(
            '[[stores]]\nname = "here"\nurl = "../replicas"\n[alerts]\nurls_file = "urls"\n'
        )

    @staticmethod
    def _made(folder: Path) -> Box:
        box = Box(folder, REPLICA__ENABLED="true", REPLICA__URL=f"file://{folder.parent}/replicas")
        box.environ |= {"EDGE_STORE_REPLICA__MONITOR_INTERVAL_S": "0.2"}
        return box

    def replicate(self) -> None:
        """All boxes at once: each answers one chat, and ends once that is in its replica."""

        def lived(box: Box, device_id: str) -> None:
            done = box.run("init", str(box.directory), "--engine", "demo", "--device-id", device_id)
            assert done.returncode == 0, done.stderr
            with box.serve() as daemon:
                assert daemon.chat("hello").status_code == 200
                head = self._heads / f"{device_id}.json"
                until(lambda: head.exists() and self.head(device_id)["rows"] == 1, "the head")
                if device_id == "idle":
                    self._refuse_second()
                assert daemon.stop() == 0

        with ThreadPoolExecutor() as threads:
            list(threads.map(lived, self._boxes, NAMES))
        done = self._centre.run(
            *("fleet", "pull", "--from", str(self._heads.parent), "--into", str(self.folder))
        )
        assert done.returncode == 0, done.stderr

    def _refuse_second(self) -> None:
        folder = str(self._second.directory)
        done = self._second.run("init", folder, "--engine", "demo", "--device-id", "idle")
        assert done.returncode == 0, done.stderr
        with self._second.serve():
            until(lambda: list(self._heads.glob("idle.*.refused")), "it says that it was refused")

    def head(self, device_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._heads / f"{device_id}.json").read_text())
        return found

    def age(self, device_id: str, hours: float) -> None:
        """Its last sign was so long ago."""
        then = time.time() - 3600 * hours
        os.utime(self._heads / f"{device_id}.json", (then, then))

    def forget_second(self) -> None:
        """The second box is switched off, and its last sign grows old."""
        (refusal,) = self._heads.glob("idle.*.refused")
        then = time.time() - 3600
        os.utime(refusal, (then, then))

    def tamper(self, device_id: str) -> None:
        """Somebody changes the copy."""
        connection = open_writer(self.folder / f"{device_id}.db")
        connection.execute("UPDATE commits SET digest = zeroblob(32)")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()

    def health(self, *options: str) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
        """The exit code, each box, and the summary."""
        done = self._centre.run("fleet", "health", "--in", str(self.folder), *options)
        *boxes, last = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, {box["device_id"]: box for box in boxes}, last["summary"]

    def found(self, *options: str) -> dict[str, list[str]]:
        """The names of what is wrong with each box."""
        _, boxes, _ = self.health(*options)
        return {name: [each["name"] for each in box["findings"]] for name, box in boxes.items()}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.replicate()
    return made


@pytest.fixture
def told(fleet: Fleet) -> Iterator[Hook]:
    with hook() as made:
        (fleet.folder / "urls").write_text(made.url)
        yield made


def test_each_box_is_found_to_be_what_it_is_and_people_hear_of_it_once(
    fleet: Fleet, told: Hook
) -> None:
    fleet.forget_second()
    code, boxes, summary = fleet.health("--disk-min", "0")
    assert (code, summary["wrong"], summary["results"]) == (0, 0, 4)
    assert {box["state"] for box in boxes.values()} == {"idle"}
    assert boxes["idle"]["disk_bytes"] > boxes["idle"]["disk_free_bytes"] > 0

    fleet.age("dead", 48)
    fleet.age("late", 1)
    fleet.tamper("tampered")
    # Of no interest here: the tester's disk, and clocks beside times that were made up.
    options = (
        "--alarms",
        "--textfile",
        str(fleet.textfile),
        "--disk-min",
        "0",
        "--clock-max",
        "9d",
    )
    told.status = 500
    code, boxes, summary = fleet.health(*options)
    assert (code, summary["wrong"]) == (1, 3)
    for name, box in boxes.items():
        assert [each["name"] for each in box["findings"]] == ([] if name == "idle" else [name])
    assert told.taken == []
    told.status = 200
    fleet.health(*options)
    assert sorted(told.titles) == [f"fleet_{name}: raised" for name in ("dead", "late", "tampered")]
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(fleet.textfile.read_text())
        for sample in family.samples
    }
    assert samples["edge_store_fleet_findings", "dead"] == 1
    assert samples["edge_store_fleet_findings", "duplicate"] == 0
    assert samples["edge_store_fleet_box_finding", "late", "late"] == 1
    assert samples["edge_store_fleet_box_pulse_timestamp_seconds", "dead"] < time.time() - 86_400
    assert samples["edge_store_fleet_box_results_behind", "idle"] == 0

    fleet.health(*options)
    assert len(told.taken) == 3, "nothing is told again"
    fleet.age("late", 48)
    assert fleet.found(*options)["late"] == ["dead"]
    assert sorted(told.titles[3:]) == ["fleet_dead: reminder", "fleet_late: resolved"]
    (more,) = [each for each in told.taken if "dead: reminder" in each["title"]]
    assert more["message"].index("late: no sign") < more["message"].index("dead: no sign")


def test_a_second_box_under_an_id_is_found_while_it_runs(fleet: Fleet) -> None:
    (refusal,) = (fleet.folder.parent / "replicas" / "heads").glob("idle.*.refused")
    os.utime(refusal)
    (duplicate,) = fleet.health("--disk-min", "0")[1]["idle"]["findings"]
    host = json.loads(refusal.read_bytes())["host"]
    assert duplicate["name"] == "duplicate"
    assert duplicate["message"].count(host) == 2, "both are named"


def test_wrong_usage_has_a_code_of_its_own(tmp_path: Path) -> None:
    def code(*options: str) -> int:
        return CliRunner().invoke(fleet_group, ["health", *options]).exit_code

    (tmp_path / "heads").mkdir()
    assert code("--from", str(tmp_path)) == 0, "it has no boxes"
    assert code("--from", str(tmp_path), "--late-after", "soon") == 2
    assert code("--from", str(tmp_path), "--alarms") == 2, "where would it remember?"
    assert code("--in", str(tmp_path)) == 2, "no fleet.toml names a store"
