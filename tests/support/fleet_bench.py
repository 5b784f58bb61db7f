"""What pulling a fleet costs, in CPU-seconds, beside ``litestream restore`` of each box. See
scripts/fleet-bench.

Every box is a real one, small, with its own id inside; one Litestream replicates them all. The pull
is the command in a process of its own, and so is each restore; turns are interleaved.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from support.fleet import Fleet
from support.replicating import ROOT
from support.s3server import S3Server

from edge_store.ids import DeviceId
from edge_store.replica.litestream import child_environment, find_litestream
from edge_store.replica.location import Location, parse_location, read_credentials

RESULT_BYTES = 6000  # random, so that nothing is compressed
COLUMNS = (
    "what", "boxes", "CPU-s", "ms of CPU a box", "beside restores", "wall s", "MB of memory",
    "MB downloaded", "boxes were", "load",
)  # fmt: skip


class Cost(NamedTuple):
    """Of one command and all that it started. ``megabytes``: most memory of one process."""

    cpu_s: float
    wall_s: float
    megabytes: float
    reports: list[dict[str, object]]


# Linux counts the memory of whoever forked as the command's: so somebody small does.
STARTER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def run(command: list[str], environment: dict[str, str]) -> Cost:
    began = time.monotonic()
    command = [sys.executable, "-I", "-S", "-c", STARTER, *command]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    *lines, last = process.communicate()[0].splitlines()
    status, cpu_s, kilobytes = json.loads(last)
    assert status == 0, f"{command} failed: {lines[-3:]}"
    reports = [json.loads(line) for line in lines if line.startswith("{")]
    return Cost(cpu_s, time.monotonic() - began, kilobytes / 1024, reports)


def pull(url: str, into: Path, *more: str) -> Cost:
    command = [sys.executable, "-m", "edge_store", "fleet", "pull", "--from", url]
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **keys}
    return run([*command, "--into", str(into), "--json", *more], environment)


def restore(location: Location, names: list[str], to: Path) -> Cost:
    """``litestream restore`` of each, one after the other, with no check of what comes."""
    to.mkdir()
    program = str(find_litestream().path)
    environment = child_environment(read_credentials(location))
    costs = []
    for name in names:
        source = to / name / "source.db"
        source.parent.mkdir()
        config = source.with_name("litestream.yml")
        replica = location.litestream_replica(DeviceId(name))
        config.write_text(json.dumps({"dbs": [{"path": str(source), "replica": replica}]}))
        command = [program, "restore", "-config", str(config), "-o", str(to / f"{name}.db")]
        costs.append(run([*command, str(source)], environment))
    shutil.rmtree(to)
    cpu, wall, memory, _ = zip(*costs, strict=True)
    return Cost(sum(cpu), sum(wall), max(memory), [])


def told(what: str, cost: Cost, boxes: int, beside: Cost | None = None) -> None:
    hows = [str(report["how"]) for report in cost.reports]
    size = sum(int(str(report["downloaded_bytes"])) for report in cost.reports)
    ratio = (
        f" {cost.cpu_s / beside.cpu_s:.2f} of the restores' {beside.cpu_s:.1f}" if beside else ""
    )
    print(
        f"| {what} | {boxes} | {cost.cpu_s:.2f} | {1000 * cost.cpu_s / boxes:.2f} |{ratio} | "
        f"{cost.wall_s:.1f} | {cost.megabytes:.0f} | {size / 1e6:.1f} | "
        f"{', '.join(f'{hows.count(how)} {how}' for how in sorted({*hows}))} | "
        f"{os.getloadavg()[0]:.1f} |",
        flush=True,
    )


async def make(fleet: Fleet, boxes: int, results: int) -> None:
    for number in range(boxes):
        fleet.add(f"box-{number:04d}").write(results, body_bytes=RESULT_BYTES)
    await fleet.replicate()


def every(names: list[str], wanted: int, turn: int) -> list[str]:
    """So many of them, others in each turn."""
    step = max(1, len(names) // wanted)
    return names[turn % step :: step][:wanted]


def measure(fleet: Fleet, into: Path, arguments: argparse.Namespace) -> None:
    location, names = parse_location(fleet.url), sorted(fleet.boxes)
    boxes, to = len(names), into.with_name("plain")
    for turn in range(arguments.rounds):
        shutil.rmtree(into, ignore_errors=True)
        sample = every(names, arguments.sample, turn)
        plain = restore(location, sample, to)
        scaled = plain._replace(cpu_s=plain.cpu_s * boxes / len(sample))
        told("first pull", pull(fleet.url, into), boxes, scaled)
        told("nothing is new", pull(fleet.url, into), boxes)
        changed = every(names, arguments.changed, turn)
        for name in changed:
            fleet.boxes[name].write(1, body_bytes=RESULT_BYTES)
        asyncio.run(fleet.replicate(changed))
        plain = restore(location, changed, to)
        told(f"{len(changed)} have changed", pull(fleet.url, into), boxes, plain)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet-bench", description=__doc__)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--changed", type=int, default=100)
    parser.add_argument("--results", type=int, default=130, help="of a box; 130 make 1 MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=50, help="boxes that are restored to compare")
    parser.add_argument("--folder", action="store_true", help="replicas in a folder, without S3")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fleet-bench-"))
    try:
        with S3Server(folder / "s3") as server:
            os.environ.update(server.environ)
            stored = folder / "s3" / "edge"
            url = f"file://{folder}/replicas" if arguments.folder else server.url("fleet")
            if arguments.folder:
                stored = folder / "replicas"
                stored.mkdir()
            with Fleet(folder / "boxes", url, stored, 1, keeps_truth=False) as fleet:
                (folder / "boxes").mkdir()
                began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
                asyncio.run(make(fleet, arguments.boxes, arguments.results))
                sizes = [
                    sum(path.stat().st_size for path in fleet.files(box))
                    for box in list(fleet.boxes.values())[:9]
                ]
                made = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began
                size = statistics.median(sizes) / 1e6
                print(f"{arguments.boxes} boxes of {size:.2f} MB, {made:.0f} CPU-s to make\n")
                print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
                measure(fleet, folder / "copies", arguments)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
