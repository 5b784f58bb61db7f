"""How fast a database comes back, beside Litestream's own restore. See scripts/restore-speed."""

import asyncio
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from support.replicating import Database, replicate
from support.s3server import S3Server

from edge_store.config import ReplicaSection
from edge_store.ids import DeviceId
from edge_store.replica.litestream import child_environment, find_litestream, render_config
from edge_store.replica.location import Location, parse_location, read_credentials
from edge_store.replica.restore import restore

DEVICE = DeviceId("box-a")
BODY_BYTES, BATCH = 3000, 100  # random bytes: the worst case of a download


async def replicated(folder: Path, url: str, megabytes: int) -> int:
    """Leave a replica of a database of that size; its bytes."""
    database = folder / "results.db"
    writing = Database(database, DEVICE)
    async with replicate(database, DEVICE, url) as litestream:
        while database.stat().st_size < megabytes * 1e6:
            for _ in range(50):
                writing.write(BATCH, body_bytes=BODY_BYTES)
            await litestream.sync(300)
    writing.close()
    return database.stat().st_size


def as_folder(folder: Path) -> Path:
    """The same files as a replica in a folder."""
    found = folder / "s3" / "edge" / "fleet" / DEVICE / "results.db"
    for level in found.iterdir():
        to = folder / "replicas" / DEVICE / "results.db" / "ltx" / f"{int(level.name, 16):x}"
        shutil.copytree(level, to, copy_function=os.link)
    return folder / "replicas"


def ours(location: Location, to: Path) -> float:
    return asyncio.run(restore(location, DEVICE, to, timeout_s=900)).seconds


def plain(location: Location, to: Path, check: str = "none") -> float:
    source = to.with_name("source.db")
    config = to.with_name("litestream.yml")
    config.write_bytes(
        render_config(
            database=source,
            meta_path=to.with_name("meta"),
            socket=None,
            replica=location.litestream_replica(DEVICE),
            section=ReplicaSection(),
        )
    )
    command = [str(find_litestream().path), "restore", "-config", str(config)]
    began = time.monotonic()
    subprocess.run(
        [*command, "-integrity-check", check, "-o", str(to), str(source)],
        env=child_environment(read_credentials(location)),
        check=True,
        capture_output=True,
    )
    return time.monotonic() - began


def checked(location: Location, to: Path) -> float:
    return plain(location, to, "full")


def main() -> None:
    megabytes, rounds = (int(each) for each in (*sys.argv[1:], *("1100", "5")[len(sys.argv) - 1 :]))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    folder = Path(tempfile.mkdtemp(prefix="restore-speed-"))
    ways: dict[str, Callable[[Location, Path], float]] = {
        "edge-store, all checks": ours,
        "litestream, full check": checked,
        "litestream, no check": plain,
    }
    try:
        with S3Server(folder / "s3") as server:
            os.environ.update(server.environ)
            size = asyncio.run(replicated(folder, server.url("fleet"), megabytes))
            print(f"{size / 1e6:.0f} MB of database")
            places = {"S3": server.url("fleet"), "folder": f"{as_folder(folder)}"}
            for name, url in places.items():
                took: dict[str, list[float]] = {way: [] for way in ways}
                for turn in range(rounds):
                    order = list(ways) if turn % 2 else list(reversed(ways))
                    for way in order:
                        to = folder / "copies" / f"{turn}.db"
                        to.parent.mkdir()
                        took[way].append(ways[way](parse_location(url), to))
                        shutil.rmtree(to.parent)
                for way, seconds in took.items():
                    median = statistics.median(seconds)
                    print(
                        f"{name:7} {way:24} {size / 1e6 / median:5.0f} MB/s  {median:5.1f} s",
                        flush=True,
                    )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
