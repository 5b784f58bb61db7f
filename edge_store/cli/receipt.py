"""``edge-store receipt``: how durable one result is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.output import write_json
from edge_store.cli.target import chosen_database, target_options

if TYPE_CHECKING:
    from edge_store.receipt import ReplicaUnknown
    from edge_store.replica.status import ReplicaStatus

__all__ = ["receipt"]


@click.command()
@click.argument("result_id", metavar="ID")
@target_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def receipt(result_id: str, db: Path | None, config: str | None, *, as_json: bool) -> None:
    """Show how durable a result is: committed, replicated, proven; or what became of it.

    Whether it is replicated only the running daemon knows: it is asked, unless --db names a file.
    Exits 0 when the result is committed here, 1 when it is not.

    \b
    Example:
      edge-store receipt 0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55
    """
    from edge_store.receipt import ReplicaUnknown, State, described, read_receipt
    from edge_store.sqlite import open_reader

    replica = ReplicaUnknown("a file alone does not say") if db is not None else _replica(config)
    connection = open_reader(chosen_database(db, config))
    try:
        found = read_receipt(connection, result_id, replica)
    finally:
        connection.close()
    if as_json:
        write_json(found, sys.stdout)
    else:
        for name, text in described(found):
            click.echo(f"{name:<10} {text}")
    sys.exit(0 if found.state is State.COMMITTED else 1)


def _replica(config: str | None) -> "ReplicaStatus | ReplicaUnknown | None":
    """What the daemon of this box knows of its replica; None when there is none."""
    import msgspec

    from edge_store.config import load
    from edge_store.receipt import ReplicaUnknown
    from edge_store.replica.status import ReplicaStatus
    from edge_store.status import ask_daemon, known_device_id

    settings = load(config).config
    if not settings.replica.enabled:
        return None
    daemon, problem = ask_daemon(settings.server, known_device_id(settings))
    if daemon is None:
        return ReplicaUnknown(f"the daemon does not answer ({problem})")
    try:
        return msgspec.convert(daemon.get("replica"), ReplicaStatus | None)
    except msgspec.ValidationError:
        return ReplicaUnknown("the daemon is of another version")
