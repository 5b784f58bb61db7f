"""Pulls that are killed, and files with flipped bits: see ``scripts/fleet-faults --help``."""

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import structlog
from support.fleet import Fleet, Truth, truth_of
from support.fleet_pulls import Copies, pull_once
from support.lake_faults import kill_lake_work
from support.replicating import ROOT

from edge_store.errors import NotAnEdgeStoreFile
from edge_store.fleet.copies import copy_path
from edge_store.sqlite import check_integrity, open_reader

__all__ = ["flip_bits", "kill_pulls"]

AFTER_US_MAX = 3000
CHANGES_SHARE = 0.4  # of the pulls that are killed find something new
EXPIRES_SHARE = 0.5  # of what is new is that the box's retention has deleted something
AIMED_SHARE = 0.2
KEPT = "os.link"  # the step by which an older copy is kept beside
DEADLINE_S = 60.0
STOOD_S = 1e-3

Mark = tuple[int, bytes]


class KilledPulls:
    """Forks pulls that are killed at a step: see support/pull_child.py."""

    def __init__(self, url: str, into: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.pull_child", url, str(into)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def pull(self, point: int = 0, after_us: int = 0, only: str = "") -> tuple[int, int]:
        """Its exit status and its steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{point} {after_us} {only}\n")
        self._process.stdin.flush()
        status, steps = self._answer().split()
        return int(status), int(steps)

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(DEADLINE_S)


class Watch:
    """A reader that opens every copy again and again, and what it has found wrong."""

    def __init__(self, fleet: Fleet, into: Path) -> None:
        self.looks = 0
        self.faults: list[str] = []
        self._fleet = fleet
        self._into = into
        self._is_over = threading.Event()

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(STOOD_S):
            for box in list(self._fleet.boxes.values()):
                path = copy_path(self._into, box.device_id)
                was_there = path.exists()  # the first may come as it is looked for
                try:
                    found = mark_of(path)
                except NotAnEdgeStoreFile:
                    if was_there:
                        self.faults.append(f"{path} is no database")
                    continue
                except Exception as exc:  # noqa: BLE001  (whatever a reader meets is a fault)
                    self.faults.append(f"{path}: {exc}")
                    continue
                self.looks += 1
                if found not in [mark_in(truth) for _, truth in list(box.published)]:
                    self.faults.append(f"{path} is at {found}, which was never told")


def mark_of(path: Path) -> Mark:
    """How many results a copy has and its newest digest, if the file is sound."""
    with closing(open_reader(path)) as connection:
        assert check_integrity(connection) == "ok"
        (results,) = connection.execute("SELECT count(*) FROM results").fetchone()
        newest = connection.execute(
            "SELECT digest FROM commits ORDER BY commit_id DESC LIMIT 1"
        ).fetchone()
    return results, newest[0] if newest else b""


def mark_in(truth: Truth) -> Mark:
    commits = sorted(truth.tables["commits"])
    return len(truth.results), commits[-1][6] if commits else b""


async def kill_pulls(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill so many pulls, each at a random step, the first ones before there is any copy; one in
    five of those that keep an older copy, between that and the renaming of the new one. After each
    every copy is one state of its box, whole, and what was in one is in one; the last pull brings
    all that is to come, and nothing is kept twice.
    """
    chances, tally = random.Random(seed), Counter[str]()
    stored, into = folder / "replicas", folder / "copies"
    stored.mkdir()
    with Fleet(folder, f"file://{stored}", stored, seed) as fleet:
        for number in range(3):
            fleet.add(f"box-{number}").live(10 * number, chances)
        await fleet.replicate()
        killed, watch = KilledPulls(fleet.url, into), Watch(fleet, into)
        copies = Copies(fleet, into)
        most = 400  # steps of a pull; known better after the first that ends
        try:
            with watch.looking():
                while tally["killed"] < kills:
                    if chances.random() < CHANGES_SHARE:
                        await change(fleet, chances)
                    after_us = chances.choice((0, chances.randrange(AFTER_US_MAX)))
                    is_aimed = chances.random() < AIMED_SHARE
                    if is_aimed:
                        status, steps = killed.pull(1, after_us // 10, KEPT)
                    else:
                        status, steps = killed.pull(chances.randint(1, most), after_us)
                    assert status in (0, -signal.SIGKILL), status
                    tally["killed" if status else "ended"] += 1
                    tally["killed as a copy was kept"] += bool(status and is_aimed)
                    if status == 0 and not is_aimed:
                        most = max(20, min(most, 2 * steps))
                    for box in fleet.boxes.values():
                        copy = copy_path(into, box.device_id)
                        states = [truth for _, truth in box.published]
                        assert not copy.exists() or truth_of(copy) in states, copy
                        copies.look(box)
                await change(fleet, chances)
                await copies.pull()
        finally:
            killed.close()
        assert not watch.faults, watch.faults[:3]
        left = sorted(path.name for path in into.iterdir() if path.name.endswith(".restoring"))
        assert not left, left
        contents = [path.read_bytes() for path in into.glob("*.db")]
        assert len(contents) == len(set(contents)), "a copy is kept twice"
    return tally + Counter(looks=watch.looks)


async def change(fleet: Fleet, chances: random.Random) -> None:
    box = chances.choice(list(fleet.boxes.values()))
    box.live(chances.randrange(1, 5), chances)
    if chances.random() < EXPIRES_SHARE:
        box.expire(1, chances)
    if chances.random() < 0.1:
        box.begin_again()
        box.live(1, chances)
    await fleet.replicate([str(box.device_id)])


async def flip_bits(folder: Path, flips: int, seed: int, *, merged: bool = False) -> Counter[str]:
    """Flip so many bits, one at a time, in the files that a pull would apply. What it leaves is
    the right copy, or the older one with a failure in the report. ``merged``: there is another way
    to the same state, so that each pull must end well.
    """
    chances, tally = random.Random(seed), Counter[str]()
    stored, into, kept = folder / "replicas", folder / "copies", folder / "kept"
    stored.mkdir()
    with Fleet(folder, f"file://{stored}", stored, seed) as fleet:
        box = fleet.add("box-0")
        box.live(20, chances)
        await fleet.replicate()
        await Copies(fleet, into).pull()
        shutil.copytree(into, kept)
        older, known = copy_path(kept, box.device_id).read_bytes(), set(fleet.files(box))
        for _ in range(3):
            box.live(5, chances)
            box.forget(1, chances)
            await fleet.replicate()
        if merged:
            await fleet.merge(keep=True)
        newest = box.published[-1][1]
        new = [path for path in fleet.files(box) if path not in known and path.parent.name == "0"]
        for _ in range(flips):
            path = chances.choice(new)
            whole = path.read_bytes()
            content = bytearray(whole)
            content[chances.randrange(len(whole))] ^= 1 << chances.randrange(8)
            path.write_bytes(content)
            shutil.rmtree(into)
            shutil.copytree(kept, into)
            (report,) = await pull_once(fleet.url, into)
            copy = copy_path(into, box.device_id)
            if report.error is None:
                assert truth_of(copy) == newest, report
                tally[str(report.how)] += 1
            else:
                assert not merged, report
                assert copy.read_bytes() == older, report
                tally[str(report.code)] += 1
            path.write_bytes(whole)
    return tally


async def killed_work(folder: Path, kills: int, seed: int) -> Counter[str]:
    return await asyncio.to_thread(kill_lake_work, folder, kills, seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet-faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--lake-kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"seed {arguments.seed}", flush=True)
    runs: dict[str, Callable[[Path], Coroutine[Any, Any, Counter[str]]]] = {
        "pulls killed": lambda at: kill_pulls(at, arguments.kills, arguments.seed),
        "work on a lake": lambda at: killed_work(at, arguments.lake_kills, arguments.seed),
        "bits flipped": lambda at: flip_bits(at, arguments.flips, arguments.seed),
        "bits flipped where there is another way": lambda at: flip_bits(
            at, arguments.flips, arguments.seed, merged=True
        ),
    }
    for name, run in runs.items():
        folder, began = Path(tempfile.mkdtemp(prefix="fleet-")), time.monotonic()
        try:
            tally = asyncio.run(run(folder))
        finally:
            shutil.rmtree(folder)
        found = ", ".join(f"{times} {what}" for what, times in sorted(tally.items()))
        took = f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}"
        print(f"{name}: {found}; {took}", flush=True)


if __name__ == "__main__":
    main()
