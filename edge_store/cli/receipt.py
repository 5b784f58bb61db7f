"""``edge-store receipt``: how durable one result is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.output import write_json
from edge_store.cli.target import chosen_database, last_boot, target_options

if TYPE_CHECKING:
    from edge_store.receipt import ReplicaUnknown
    from edge_store.replica.status import ReplicaStatus
    from edge_store.sqlite import Connection

__all__ = ["receipt"]

ID_CHARS = 36


@click.command()
@click.argument("text", metavar="ID")
@target_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def receipt(text: str, db: Path | None, config: str | None, *, as_json: bool) -> None:
    """Show how durable a result is: committed, replicated, proven; or what became of it.

    ID is an id, or the beginning of one that no other has, of what is here, deleted or lost.
    Whether it is replicated only the running daemon knows: it is asked, unless --db names a file.
    Exits 0 when the result is committed here and as it was committed, 65 when it was changed since,
    1 when it is not here.

    \b
    Example:
      edge-store receipt 0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55
    """
    from edge_store import exits
    from edge_store.cli.receipt_text import described
    from edge_store.errors import InvalidRequest
    from edge_store.receipt import ReplicaUnknown, State, read_receipt
    from edge_store.sqlite import open_reader

    path = chosen_database(db, config)
    answers, replica = (
        (False, ReplicaUnknown("a file alone does not say")) if db is not None else _replica(config)
    )
    boot = last_boot(path, answers=answers, is_copy=db is not None)
    connection = open_reader(path)
    try:
        found = read_receipt(connection, _whole(connection, text), replica, boot)
    except InvalidRequest as exc:
        raise click.BadParameter(f"{exc}: {exc.hint}", param_hint="ID") from exc
    finally:
        connection.close()
    if as_json:
        write_json(found, sys.stdout)
    else:
        for name, said in described(found):
            click.echo(f"{name:<10} {said}")
    sys.exit({State.COMMITTED: 0, State.CHANGED: exits.CORRUPT}.get(found.state, 1))


def _whole(connection: "Connection", text: str) -> str:
    """The id that it is, or begins."""
    from edge_store.errors import InvalidRequest
    from edge_store.logs.find import find_noted_id
    from edge_store.receipt import parsed_id

    try:
        return str(parsed_id(text))
    except InvalidRequest:
        if len(text) == ID_CHARS:  # a whole one, and of no result
            raise
        return find_noted_id(connection, text)


def _replica(config: str | None) -> "tuple[bool, ReplicaStatus | ReplicaUnknown | None]":
    """Whether the daemon of this box answers, and what it knows of its replica; None when there is
    none.
    """
    import msgspec

    from edge_store.config import load
    from edge_store.receipt import ReplicaUnknown
    from edge_store.replica.status import ReplicaStatus
    from edge_store.status import ask_daemon, known_device_id

    settings = load(config).config
    daemon, problem = ask_daemon(settings.server, known_device_id(settings))
    if not settings.replica.enabled:
        return daemon is not None, None
    if daemon is None:
        return False, ReplicaUnknown(f"the daemon does not answer ({problem})")
    try:
        return True, msgspec.convert(daemon.get("replica"), ReplicaStatus | None)
    except msgspec.ValidationError:
        return True, ReplicaUnknown("the daemon is of another version")
