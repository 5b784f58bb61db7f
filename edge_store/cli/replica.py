"""``edge-store replica``: how far the replica is, and getting the database back from it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.cost import cost
from edge_store.cli.drill import drill
from edge_store.cli.output import json_line
from edge_store.cli.replica_check import check
from edge_store.cli.restoring import only_device, points, restore, rfc3339
from edge_store.cli.values import SPANS, duration_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_store.config import Config
    from edge_store.replica.location import Location

__all__ = ["replica"]


def _seconds(_context: click.Context, option: click.Parameter, text: str) -> float:
    from edge_store.replica.pause import PAUSE_S_MAX

    seconds = duration_s(text)
    if seconds is None:
        raise click.BadParameter(f"{text!r} is not like {SPANS}", param=option)
    if not 0 < seconds <= PAUSE_S_MAX:
        raise click.BadParameter(
            f"{text!r} is not from 1s to 7d; for longer, set replica.enabled = false", param=option
        )
    return seconds


@click.group()
def replica() -> None:
    """The copy of this box's database in the object store.

    \b
    Example:
      edge-store replica status
      edge-store replica restore --to restored.db
    """


replica.add_command(check)
replica.add_command(drill)
replica.add_command(cost)
replica.add_command(points)
replica.add_command(restore)


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
        click.echo(json_line(_with_times(found), sys.stdout))
        return
    lines = list(_lines(found))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name:<{width}}  {text}")


def _with_times(found: dict[str, Any]) -> dict[str, Any]:
    """With each time as RFC 3339."""
    return {
        name: _with_times(value)
        if isinstance(value, dict)
        else rfc3339(value)
        if name.endswith(("at", "until")) and isinstance(value, int)
        else value
        for name, value in found.items()
    }


def _lines(found: dict[str, Any]) -> "Iterator[tuple[str, str]]":
    """What the daemon says, or what lies in the store, in words."""
    from edge_store.cli.replication import replication_lines, stored_lines

    if "where" not in found:
        yield "state", f"off: nothing is replicated; {found['hint']}"
        return
    yield "where", found["where"]
    yield from replication_lines(found) if found["daemon"] == "running" else stored_lines(found)


@replica.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option(
    "--for", "for_s", metavar="TIME", default="2h", show_default=True, callback=_seconds,
    help="How long, at most 7d: 90s, 30min, 2h, 1d.",
)  # fmt: skip
def pause(config: str | None, for_s: float) -> None:
    """Replicate nothing for a while; requests are answered as before.

    It ends by itself, and holds through restarts until then. Over an hour, it is an alarm.

    \b
    Example:
      edge-store replica pause --for 30min
    """
    until = _ask(config, "pause", {"for_s": for_s})["paused_until"]
    click.echo(f"paused until {rfc3339(until)}; `edge-store replica resume` ends it")


@replica.command("take-over")
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def take_over(config: str | None, *, yes: bool) -> None:
    """Take the path of this box's replica away from whoever writes there.

    For a box that was set up anew, a clone that shall be the one, a replacement. Ask first who
    writes there: a box that still runs replicates nothing from then on. The states that lie there
    stay, as long as snapshots are kept. The daemon of this box must run.

    \b
    Example:
      edge-store replica take-over
    """
    seen = _ask(config, "owner", {})
    owner = seen["owner"]
    if owner is not None and owner["boot_id"] == seen["boot_id"]:
        click.echo("this box has the path already: see `edge-store replica status`")
        return
    if owner is None:
        click.echo("nobody is named as the owner of this path")
    else:
        since = rfc3339(owner["since"])
        click.echo(f"written by {owner['host']} since {since} (boot {owner['boot_id']})")
    click.echo(f"its head was last written at {rfc3339(seen['head_at']) or 'no time'}")
    if not yes:
        click.confirm("Take the path from it?", abort=True)
    begins_in_s = _ask(config, "take-over", {})["begins_in_s"]
    when = f"in {begins_in_s:.0f} s" if begins_in_s else "now"
    click.echo(f"the path is this box's; replication begins {when}")


@replica.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
def resume(config: str | None) -> None:
    """Let a paused replication go on. It catches up by itself.

    \b
    Example:
      edge-store replica resume
    """
    _ask(config, "resume", {})
    click.echo("replication goes on")


def _ask(config: str | None, what: str, params: dict[str, Any]) -> Any:
    from edge_store.cli.change import ask
    from edge_store.config import load
    from edge_store.errors import ReplicationError

    settings = load(config).config
    body = json.dumps(params).encode()
    answer = ask(Path(settings.store.path), "POST", f"/replica/{what}", body)
    if answer is None:
        raise ReplicationError(
            "the daemon does not run, so nothing is replicated",
            hint="start it first: it serves, whoever has the path of its replica",
        )
    return answer


def _found(settings: "Config", location: "Location") -> dict[str, Any]:
    """What the daemon says of the replica; when it says nothing, what lies in the store."""
    from edge_store.errors import ReplicaNotFound, ReplicationError
    from edge_store.replica.extent import read_extent
    from edge_store.replica.location import Scheme, read_credentials
    from edge_store.status import ask_daemon, has_never_run, known_device_id

    device_id = known_device_id(settings)
    daemon, problem = ask_daemon(settings.server, device_id)
    seen = daemon.get("replica") if daemon is not None else None
    if isinstance(seen, dict):
        return {"daemon": "running", **seen}
    credentials = read_credentials(location)
    told = {
        "daemon": "not running" if daemon is None else "running without replication",
        "problem": problem,
        "device_id": device_id,
    }
    told["device_id"] = device_id = device_id or asyncio.run(only_device(location))
    try:
        extent = asyncio.run(read_extent(location, credentials, device_id))
    except ReplicationError as exc:
        is_missing = isinstance(exc, ReplicaNotFound) or location.scheme is Scheme.FILE
        if not (is_missing and has_never_run(settings)):
            raise
        nothing = "nothing is replicated yet: this box was never started"
        return {**told, "txid": 0, "written_at": None, "files": 0, "bytes": 0, "hint": nothing}
    return {
        **told,
        "txid": extent.txid,
        "written_at": rfc3339(extent.written_at),
        "files": extent.files,
        "bytes": extent.bytes,
    }
