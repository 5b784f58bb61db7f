"""``edge-store replica``: how far the replica is, and getting the database back from it."""

import asyncio
import json
import os
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.replica_check import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_store.config import Config
    from edge_store.ids import DeviceId
    from edge_store.replica.location import Location
    from edge_store.replica.restore import Restored

__all__ = ["replica"]


@click.group()
def replica() -> None:
    """The copy of this box's database in the object store.

    \b
    Example:
      edge-store replica status
      edge-store replica restore --to restored.db
    """


replica.add_command(check)


@replica.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(config: str | None, *, as_json: bool) -> None:
    """Say how far the replica is. Asks the daemon; when it is down, looks into the store.

    \b
    Example:
      edge-store replica status --config mybox
    """
    from edge_store.config import load
    from edge_store.replica.litestream import require_safe_path
    from edge_store.replica.location import parse_location

    settings = load(config).config
    if not settings.replica.enabled:
        found: dict[str, Any] = {"state": "off", "hint": "set replica.enabled = true"}
    else:
        require_safe_path(Path(settings.store.path))
        location = parse_location(settings.replica.url)
        found = {"where": str(location), **_found(settings, location)}
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    lines = dict(_lines(found))
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")


def _lines(found: dict[str, Any]) -> "Iterator[tuple[str, Any]]":
    """Each value by its name; what is in another value has that one's name before its own."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{inner}", each) for inner, each in _lines(value))
        else:
            yield name, _rfc3339(value) if name == "at" else value


def _found(settings: "Config", location: "Location") -> dict[str, Any]:
    """What the daemon says of the replica; when it says nothing, what lies in the store."""
    from edge_store.replica.extent import read_extent
    from edge_store.replica.location import read_credentials
    from edge_store.status import ask_daemon, known_device_id

    device_id = known_device_id(settings)
    daemon, problem = ask_daemon(settings.server, device_id)
    seen = daemon.get("replica") if daemon is not None else None
    if isinstance(seen, dict):
        last = _rfc3339(seen.get("last_synced_at"))
        return {"daemon": "running", **seen, "last_synced_at": last}
    credentials = read_credentials(location)
    device_id = device_id or asyncio.run(_only_device(location))
    extent = asyncio.run(read_extent(location, credentials, device_id))
    return {
        "daemon": "not running" if daemon is None else "running without replication",
        "problem": problem,
        "device_id": device_id,
        "txid": extent.txid,
        "written_at": _rfc3339(extent.written_at),
        "files": extent.files,
        "bytes": extent.bytes,
    }


def _moment(_context: click.Context, option: click.Parameter, text: str | None) -> datetime | None:
    """A time with its zone: without one, it would be taken for another zone's."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(f"{text!r} is not like 2026-01-31T08:00:00Z", param=option)
    return moment


@replica.command()
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--from", "url", help="Another place of replicas: file:///… or s3://bucket/prefix?….")
@click.option("--device", help="Whose replica, when there are several.")
@click.option(
    "--timestamp", metavar="RFC3339", callback=_moment,
    help="The state that was replicated by then, not the newest: 2026-01-31T08:00:00Z.",
)  # fmt: skip
@click.option("--timeout", default=3600.0, show_default=True, help="Most seconds to take.")
def restore(
    to: Path,
    config: str | None,
    url: str | None,
    device: str | None,
    timestamp: datetime | None,
    timeout: float,
) -> None:
    """Rebuild the database from its replica, check all of it, and write it to FILE.

    Writes over nothing. Keys of an S3 store come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    \b
    Example:
      edge-store replica restore --to restored.db
      edge-store replica restore --to earlier.db --timestamp 2026-01-31T08:00:00Z
      edge-store replica restore --to a.db --from s3://edge/fleet?endpoint=https://host --device a
    """
    from edge_store.config import load
    from edge_store.ids import DeviceId
    from edge_store.replica.litestream import require_safe_path
    from edge_store.replica.location import parse_location
    from edge_store.replica.restore import restore as restore_replica
    from edge_store.status import known_device_id

    device_id = DeviceId(device) if device else None
    if url is not None:
        location = parse_location(url, key="--from")
    else:
        settings = load(config).config
        require_safe_path(Path(settings.store.path))
        location = parse_location(settings.replica.url)
        device_id = device_id or known_device_id(settings)
    device_id = device_id or asyncio.run(_only_device(location))
    done = asyncio.run(
        restore_replica(location, device_id, to, timeout_s=timeout, at=timestamp, new_timeline=True)
    )
    _say_restored(done, to)


def _say_restored(done: "Restored", to: Path) -> None:
    newest = _rfc3339(done.newest_at)
    click.echo(f"{done.path}: {done.results} results of {done.device_id}, in {done.seconds:.1f} s")
    click.echo(f"newest commit: {newest or 'none yet'}; replica TXID {done.txid}")
    click.echo("checked: every page (integrity_check), every commit (digest chain)")
    shown = shlex.quote(str(to))
    _say_keys(done.path)
    click.echo(f"look at it: edge-store query --db {shown}")
    click.echo("serve it:   stop the daemon; move the old database, its -wal and -shm and the")
    click.echo(
        "            folder `litestream` beside it away; put this file there; start it again"
    )
    if os.geteuid() == 0:
        click.echo(f"            it is root's now: chown edge-store:edge-store {shown}")
        click.echo("            (or whichever user the daemon runs as)")


def _say_keys(database: Path) -> None:
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


async def _only_device(location: "Location") -> "DeviceId":
    """The one box that has replicated there."""
    from edge_store.errors import ReplicaNotFound
    from edge_store.replica.extent import list_devices
    from edge_store.replica.location import read_credentials

    devices = await list_devices(location, read_credentials(location))
    if len(devices) > 1:
        shown = ", ".join(devices[:10]) + (" …" if len(devices) > 10 else "")
        raise ReplicaNotFound(
            f"{location} holds {len(devices)} boxes: {shown}", hint="choose one with --device ID"
        )
    return devices[0]


def _rfc3339(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
