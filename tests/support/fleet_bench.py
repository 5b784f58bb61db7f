"""What pulling a fleet costs, in CPU-seconds, beside ``litestream restore`` of each box. See
scripts/fleet-bench.

Every box is a real one, small, with its own id inside; one Litestream after the other replicates
500 of them. The pull is the command in a process of its own, and so is each restore; turns are
interleaved. Of a box that changes in no turn nothing stays but its replica: ten thousand are 4 GB.
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

from support.fleet import Box, Fleet
from support.replicating import ROOT
from support.s3server import S3Server

from edge_store.ids import DeviceId
from edge_store.replica.litestream import child_environment, find_litestream
from edge_store.replica.location import Location, parse_location, read_credentials
from edge_store.schema import migrate
from edge_store.sqlite import open_writer

RESULT_BYTES = 6000  # random, so that nothing is compressed
AT_A_TIME = 500  # boxes of one Litestream
RESTORED_MAX = 100  # of the boxes that have changed, to compare
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


def fleet_command(name: str, *more: str | Path) -> Cost:
    command = [sys.executable, "-m", "edge_store", "fleet", name, *map(str, more)]
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **keys}
    return run(command, environment)


def pull(url: str, into: Path) -> Cost:
    return fleet_command("pull", "--from", url, "--into", into, "--json")


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


async def make(fleet: Fleet, folder: Path, names: list[str], results: int, stay: set[str]) -> None:
    """Only those that ``stay`` can change later."""
    template = folder / "template.db"  # to make the tables takes longer than all the rest
    connection = open_writer(template)
    migrate(connection)
    connection.close()
    for start in range(0, len(names), AT_A_TIME):
        some = names[start : start + AT_A_TIME]
        for name in some:
            (folder / name).mkdir()
            shutil.copyfile(template, folder / name / "results.db")
            fleet.add(name).write(results, body_bytes=RESULT_BYTES)
        await fleet.replicate(some)
        for name in {*some} - stay:
            leave(fleet.boxes.pop(name))


def leave(box: Box) -> None:
    box.connection.close()
    shutil.rmtree(box.folder)


def every(names: list[str], wanted: int, turn: int) -> list[str]:
    """So many of them, others in each turn."""
    step = max(1, len(names) // wanted)
    return names[turn % step :: step][:wanted]


def measure(fleet: Fleet, names: list[str], into: Path, arguments: argparse.Namespace) -> None:
    location = parse_location(fleet.url)
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
        for start in range(0, len(changed), AT_A_TIME):
            asyncio.run(fleet.replicate(changed[start : start + AT_A_TIME]))
        sample = every(changed, RESTORED_MAX, 0)
        plain = restore(location, sample, to)
        scaled = plain._replace(cpu_s=plain.cpu_s * len(changed) / len(sample))
        told(f"{len(changed)} have changed", pull(fleet.url, into), boxes, scaled)


def ask(url: str, into: Path, boxes: int) -> None:
    """What else there is to do with all of them."""
    lake = into.with_name("lake")
    export = ("--in", into, "--lake", lake, "--only-writer")
    health = ("--from", url, "--in", into, "--late-after", "1d", "--drill-after", "0s")
    for what, name, more in (
        ("fleet health", "health", health),
        ("fleet health, nothing is new", "health", health),
        ("fleet ls", "ls", ("--in", into)),
        ("fleet export", "export", export),
        ("fleet export, nothing is new", "export", export),
        ("fleet stats, of the lake", "stats", ("--in", into, "--lake", lake)),
        ("fleet stats, of the copies", "stats", ("--in", into, "--live", "--timeout", "3600")),
    ):
        told(what, fleet_command(name, *more)._replace(reports=[]), boxes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/fleet-bench", description=__doc__)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--changed", type=int, default=100)
    parser.add_argument("--results", type=int, default=130, help="of a box; 130 make 1 MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=50, help="boxes that are restored to compare")
    parser.add_argument("--ask", action="store_true", help="also health, ls, export and stats")
    parser.add_argument("--folder", action="store_true", help="replicas in a folder, without S3")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fleet-bench-"))
    try:
        with S3Server(folder / "s3") as server:
            os.environ.update(server.environ)
            within = folder / "replicas" if arguments.folder else folder / "s3" / "edge" / "fleet"
            within.mkdir()
            url = f"file://{within}" if arguments.folder else server.url("fleet")
            with Fleet(folder / "boxes", url, within, 1, keeps_truth=False) as fleet:
                (folder / "boxes").mkdir()
                began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
                names = [f"box-{number:05d}" for number in range(arguments.boxes)]
                turns = range(arguments.rounds)
                stay = {name for turn in turns for name in every(names, arguments.changed, turn)}
                asyncio.run(make(fleet, folder / "boxes", names, arguments.results, stay))
                made = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began
                sizes = [
                    sum(path.stat().st_size for path in (within / name).rglob("*.ltx"))
                    for name in every(names, 9, 0)
                ]
                size = statistics.median(sizes) / 1e6
                print(f"{arguments.boxes} boxes of {size:.2f} MB, {made:.0f} CPU-s to make\n")
                print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
                measure(fleet, names, folder / "copies", arguments)
                if arguments.ask:
                    ask(url, folder / "copies", arguments.boxes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
