"""``edge-store replica drill``: restore the replica now, and compare."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import json_line

if TYPE_CHECKING:
    from edge_store.config import Config

__all__ = ["drill"]


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--full", "is_full", is_flag=True, help="Restore from nothing, whatever is kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def drill(config: str | None, *, is_full: bool, as_json: bool) -> None:
    """Restore the replica to a scratch file, check all of it, and compare it with the database.

    Where the last drill has left its copy, that is brought forward by what is new in the replica,
    and checked no less; with --full it is not. The daemon does it, with low priority, and records
    it: receipts say `proven` then. A replica that fails is uploaded anew, and proven again; but
    where the database itself is damaged its replica is left as it is. While the daemon is stopped
    a full one is done here, and nothing is recorded or mended. Exits 0 when the replica is proven,
    65 when it is not, 1 when nothing is known of it: the store does not answer, the disk is full.
    With --json, that is `error` in place of `drills`.

    \b
    Example:
      edge-store replica drill --config mybox
    """
    from edge_store.config import load
    from edge_store.errors import EdgeStoreError, ReplicationError
    from edge_store.exits import CORRUPT

    settings = load(config).config
    if not settings.replica.enabled:
        raise ReplicationError("this box replicates nothing", hint="set replica.enabled = true")
    try:
        found = _carried_out(settings, is_full=is_full)
    except EdgeStoreError as exc:
        if as_json:
            error = {"code": exc.code, "message": str(exc), "hint": exc.hint}
            click.echo(json_line({"error": error}, sys.stdout))
        raise
    drills = found["drills"]
    if as_json:
        click.echo(json_line(found, sys.stdout))
    else:
        for one in drills:
            _show(one)
    last = drills[-1]["proof"]
    if last["failure"] or last["live"]:
        sys.exit(CORRUPT)


def _carried_out(settings: "Config", *, is_full: bool) -> dict[str, Any]:
    """By the daemon; while it is stopped, here.

    Raises:
        EdgeStoreError: nothing is known of the replica.
    """
    from edge_store.cli.change import follow
    from edge_store.errors import ReplicationError, StoreError

    lines = follow(Path(settings.store.path), f"/drills{'?full=true' if is_full else ''}")
    if lines is None:
        return _here(settings)
    found: dict[str, Any] | None = None
    for line in lines:
        if "step" in line:
            _say(line["step"])
        found = line if line.keys() & {"drills", "error"} else found
    if found is None:
        raise StoreError("the daemon ended before the drill did", hint="see its log")
    if "error" in found:
        raise ReplicationError(found["error"]["message"], hint=found["error"]["hint"] or "")
    return found


def _say(step: str) -> None:
    click.echo(f"{step} …", err=True)


def _show(one: dict[str, Any]) -> None:
    proof = one["proof"]
    seconds = proof["duration_ms"] / 1000
    place = f"TXID {proof['txid']}, seq {proof['seq_to']}, {proof['rows']} results"
    number = "not recorded" if one["drill_id"] is None else f"drill {one['drill_id']}"
    if proof["failure"]:
        click.echo(f"FAILED   {proof['failure']} ({number}, {seconds:.1f} s)")
        return
    if proof["live"]:
        click.echo(f"DAMAGED  the database itself, not the replica: {proof['live']} ({number})")
        return
    click.echo(f"proven   {place} ({number}, {proof['kind']}, {seconds:.1f} s)")


def _here(settings: "Config") -> dict[str, Any]:
    """The drill of a stopped box, by what its head says of the replica."""
    import msgspec

    from edge_store.errors import NotAnEdgeStoreFile, ReplicationError
    from edge_store.place import NO_DATABASE
    from edge_store.replica.compare import no_marks
    from edge_store.replica.drill import UNKNOWN
    from edge_store.replica.heads import Heads
    from edge_store.replica.location import parse_location, read_credentials
    from edge_store.replica.objects import Objects
    from edge_store.replica.proof import Job, prove
    from edge_store.status import known_device_id

    device_id = known_device_id(settings)
    if device_id is None:
        raise NotAnEdgeStoreFile(
            f"{settings.store.path}: there is no database of a box", hint=NO_DATABASE
        )
    location = parse_location(settings.replica.url)
    database = Path(settings.store.path)
    heads = Heads(Objects(location, read_credentials(location)), device_id)

    async def carry_out() -> Any:
        head = await heads.read()
        job = Job(
            url=settings.replica.url,
            device_id=device_id,
            database=str(database),
            marks=no_marks(head.seq if head is not None else 0),
            reserve_bytes=settings.store.disk_reserve_bytes,
            is_full=True,  # how it was left, nobody knows
        )
        return await prove(job, _say)

    proof = asyncio.run(carry_out())
    if proof.undecided is not None:
        raise ReplicationError(f"nothing is known of the replica: {proof.undecided}", hint=UNKNOWN)
    built = msgspec.to_builtins(proof)
    return {"drills": [{"drill_id": None, "cause": "asked", "proof": built}]}
