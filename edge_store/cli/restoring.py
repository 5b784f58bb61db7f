"""``edge-store replica restore`` and ``points``: the database back from its replica."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.output import json_line
from edge_store.cli.values import MADE_FILE, MOMENT, POSITIVE

if TYPE_CHECKING:
    from edge_store.ids import DeviceId
    from edge_store.replica.location import Location
    from edge_store.replica.points import Point, Txid
    from edge_store.replica.restore import Progress, Restored

__all__ = ["moment", "only_device", "points", "progress_bar", "restore", "rfc3339", "say_keys"]

F = TypeVar("F", bound=Callable[..., Any])
TXID_HEX = re.compile(r"[0-9a-f]{16}", re.ASCII)
TXID_DECIMAL = re.compile(r"[0-9]{1,15}", re.ASCII)


def place_options(command: F) -> F:
    """Where the replica lies, and whose it is."""
    for option in (
        click.option("--device", help="Whose replica, when there are several."),
        click.option(
            "--from", "url", help="Another place of replicas, as replica.url names one: s3://…?…."
        ),
        click.option("--config", help="The box's edge-store.toml, or its folder."),
    ):
        command = option(command)
    return command


def moment(context: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    """What ``MOMENT`` takes, as a time of UTC."""
    if text is None:
        return None
    return datetime.fromtimestamp(MOMENT.convert(text, option, context) / 1000, UTC)


def _txid(_context: click.Context, option: click.Parameter, text: str | None) -> "Txid | None":
    from edge_store.replica.points import Txid

    if text is None:
        return None
    if TXID_HEX.fullmatch(text.lower()):
        return Txid(int(text, 16))
    if TXID_DECIMAL.fullmatch(text):
        return Txid(int(text))
    raise click.BadParameter(
        f"{text!r} is neither a number nor of 16 digits, as in 00000000000000c7", param=option
    )


@click.command()
@place_options
@click.option("--list", "is_listed", is_flag=True, help="Each of the states, the oldest first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with each of the states.")
def points(
    config: str | None, url: str | None, device: str | None, *, is_listed: bool, as_json: bool
) -> None:
    """Say which states the replica can give back: from when to when, and how far apart.

    Computed from a listing of its files; nothing is downloaded. Times are the store's clock's.

    \b
    Example:
      edge-store replica points --config mybox
      edge-store replica points --list | tail
    """
    from edge_store.replica.location import read_credentials
    from edge_store.replica.rebuild import Source

    location, device_id = _place(config, url, device)
    found = asyncio.run(Source(location, read_credentials(location), device_id).points())

    def named(point: "Point") -> dict[str, str]:
        return {"at": rfc3339(point.at) or "", "txid": f"{point.txid:016x}"}

    if as_json:
        answer = {
            "where": str(location),
            "device_id": device_id,
            "fine_from": named(found.fine_from),
            "missing_from": found.missing_from and f"{found.missing_from:016x}",
            "points": [named(point) for point in found.points],
        }
        click.echo(json_line(answer, sys.stdout))
    elif is_listed:
        for point in found.points:
            click.echo("  ".join(named(point).values()))
    else:
        click.echo(f"{found.of}: {found.told}")
        if found.missing_from is not None:
            click.echo(
                f"files from TXID {found.missing_from:016x} on are missing: what is later cannot "
                "be restored"
            )


@click.command()
@click.option("--to", required=True, type=MADE_FILE, help="The file to write.")
@place_options
@click.option(
    "--at",
    metavar="TIME",
    callback=moment,
    help="The state that was replicated by then: 2026-01-31T08:00:00Z, 2026-01-31 (its beginning, "
    "in UTC), or 2h (ago).",
)
@click.option(
    "--txid",
    metavar="TXID",
    callback=_txid,
    help="The state of exactly this position, as receipts show it, or as a number.",
)
@click.option(
    "--timeout", type=POSITIVE, default=3600.0, show_default=True, help="Most seconds to take."
)
@click.option("--quiet", is_flag=True, help="No progress bar; there is none in a pipe.")
def restore(  # noqa: PLR0913  (each is an option)
    to: Path,
    config: str | None,
    url: str | None,
    device: str | None,
    at: datetime | None,
    txid: "Txid | None",
    timeout: float,
    *,
    quiet: bool,
) -> None:
    """Rebuild the database from its replica, check all of it, and write it to FILE.

    Writes over nothing. `replica points` tells which states it can be. A restore that was cut short
    goes on from what it had downloaded when it is run again; that lies beside FILE, in
    .FILE.restoring. Keys of an S3 store come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    \b
    Example:
      edge-store replica restore --to restored.db
      edge-store replica restore --to earlier.db --at 2026-01-31T08:00:00Z
      edge-store replica restore --to earlier.db --at 2h
      edge-store replica restore --to proven.db --txid 00000000000000c7
      edge-store replica restore --to a.db --from s3://edge/fleet?endpoint=https://host --device a
    """
    from edge_store.errors import StoreError
    from edge_store.replica.restore import restore as restore_replica

    if at is not None and txid is not None:
        raise click.UsageError("--at and --txid are two ways to say which state: give one")
    if at is not None and at > datetime.now(UTC):
        wanted = rfc3339(round(at.timestamp() * 1000))
        said = "is in the future by this machine's clock: the newest state is restored"
        click.echo(f"edge-store: --at {wanted} {said}", err=True)
    if not to.absolute().parent.is_dir():  # a slip of the pen, or a disk that is not mounted
        raise StoreError(
            f"{to.parent} is no folder: nothing was written",
            hint="is that disk mounted? make the folder, or restore to another name",
        )
    location, device_id = _place(config, url, device)
    with progress_bar(is_shown=not quiet) as on_progress:
        done = asyncio.run(
            restore_replica(
                location,
                device_id,
                to,
                timeout_s=timeout,
                at=at if txid is None else txid,
                new_timeline=True,
                on_progress=on_progress,
            )
        )
    _say_restored(done, to)


def _place(config: str | None, url: str | None, device: str | None) -> "tuple[Location, DeviceId]":
    from edge_store.config import load
    from edge_store.ids import DeviceId
    from edge_store.replica.litestream import require_safe_path
    from edge_store.replica.location import parse_location
    from edge_store.status import known_device_id

    device_id = DeviceId(device) if device else None
    if url is not None:
        location = parse_location(url, key="--from")
    else:
        settings = load(config).config
        require_safe_path(Path(settings.store.path))
        location = parse_location(settings.replica.url)
        device_id = device_id or known_device_id(settings)
    return location, device_id or asyncio.run(only_device(location))


@contextmanager
def progress_bar(*, is_shown: bool = True) -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal's standard error: bytes, their rate and the time that is left, stage by
    stage.
    """
    if not (is_shown and sys.stderr.isatty()):
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(progress: "Progress") -> None:
            stage = progress.stage.value
            if stage not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, visible=False)
                tasks[stage] = bar.add_task(stage, total=progress.expected or None)
            bar.update(tasks[stage], completed=progress.done, total=progress.expected or None)

        yield show


def _say_restored(done: "Restored", to: Path) -> None:
    from edge_store.cli.output import bytes_text

    newest = rfc3339(done.newest_at)
    click.echo(f"{done.path}: {done.results} results of {done.device_id}, in {done.seconds:.1f} s")
    click.echo(f"state: TXID {done.txid}, in the replica since {rfc3339(done.replicated_at)}")
    click.echo(f"newest commit: {newest or 'none yet'}")
    if done.downloaded_bytes or done.reused_bytes:
        reused = f"; {bytes_text(done.reused_bytes)} of an earlier run used" * bool(
            done.reused_bytes
        )
        click.echo(f"downloaded: {bytes_text(done.downloaded_bytes)}{reused}")
    click.echo("checked: every page (integrity_check), every commit (digest chain)")
    for txid in done.passed_over:
        click.echo(f"passed over: the snapshot of TXID {txid}, which does not hold what it should:")
        click.echo("            the live file may be damaged: edge-store replica drill")
    shown = shlex.quote(str(to))
    say_keys(done.path)
    click.echo(f"look at it: edge-store query --db {shown}")
    click.echo("serve it:   stop the daemon; move the old database, its -wal and -shm and the")
    click.echo(
        "            folder `litestream` beside it away; put this file there; start it again"
    )
    if os.geteuid() == 0:
        click.echo(f"            it is root's now: chown edge-store:edge-store {shown}")
        click.echo("            (or whichever user the daemon runs as)")


def say_keys(database: Path) -> None:
    """A file of an older schema has no keys."""
    from edge_store.errors import EdgeStoreError
    from edge_store.keys import LOOK_AGAIN, revived_keys
    from edge_store.sqlite import open_reader

    connection = open_reader(database)
    try:
        revived = revived_keys(connection)
    except EdgeStoreError:
        return
    finally:
        connection.close()
    if revived is not None and revived.live:
        click.echo(f"keys:       {revived.live} live ones in this state")
        click.echo(f"            {LOOK_AGAIN}")
    else:
        click.echo("keys:       no live one; if the box has had any since, make them before it is")
        click.echo("            served: without keys, who reaches it may read everything")


async def only_device(location: "Location") -> "DeviceId":
    """The one box that has replicated there."""
    from edge_store.errors import ReplicaNotFound
    from edge_store.replica.extent import list_devices
    from edge_store.replica.location import read_credentials

    devices = await list_devices(location, read_credentials(location))
    if len(devices) > 1:
        shown = ", ".join(devices[:10]) + (" …" if len(devices) > 10 else "")
        raise ReplicaNotFound(
            f"{location} holds {len(devices)} boxes: {shown}",
            hint="choose one with --device ID (init: --device-id ID)",
        )
    return devices[0]


def rfc3339(milliseconds: int | None) -> str | None:
    """Of a time that a box has written: no calendar need have it."""
    from edge_store.clock import utc_text

    if milliseconds is None:
        return None
    return utc_text(milliseconds, f"%Y-%m-%dT%H:%M:%S.{milliseconds % 1000:03}Z")
