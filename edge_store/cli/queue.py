"""``edge-store queue``: what the daemon still has to ask, and whether it may."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.config import Config

__all__ = ["queue"]

OPEN_SHOWN_MAX = 1000
POLL_S = 0.2

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.group()
def queue() -> None:
    """The queue: lines of batches, and requests that are answered later.

    A pause holds across restarts. Each command works while the daemon is stopped, too.

    \b
    Example:
      edge-store queue ls
      edge-store queue pause
    """


@queue.command()
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List what has not ended: each batch, and the requests that are answered later as one row.

    \b
    Example:
      edge-store queue ls
    """
    from edge_store.config import load
    from edge_store.query import QueryResult
    from edge_store.queue.entries import is_paused, queue_length, standings
    from edge_store.queue.lines import LineState, counted
    from edge_store.queue.store import open_batches
    from edge_store.sqlite import open_reader

    settings = load(config).config
    connection = open_reader(Path(settings.store.path))
    try:
        rows: list[tuple[Any, ...]] = []
        if requests := queue_length(connection):
            rows.append(("requests", "queued", 0, 0, 0, requests))
        for batch in open_batches(connection, OPEN_SHOWN_MAX):
            known = standings(connection, batch.batch_id, settings.queue.attempts_max)
            counts = counted(known, batch.detail.lines or 0)
            dead = sum(standing.state is LineState.DEAD for standing in known.values())
            rows.append((
                batch.batch_id, batch.state.value, counts.completed, counts.failed - dead, dead,
                counts.total - counts.completed - counts.failed,
            ))  # fmt: skip
        paused = is_paused(connection)
    finally:
        connection.close()
    columns = ("what", "state", "completed", "refused", "dead", "waiting")
    shown = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(shown, chosen_format(fmt, sys.stdout), sys.stdout)
    if paused:
        click.echo("the queue is paused: `edge-store queue resume` lets it go on", err=True)


@queue.command()
@click.argument("batch_id", metavar="ID")
@click.option("--line", "custom_id", metavar="CUSTOM_ID", help="Only this line.")
@config_option
def retry(batch_id: str, custom_id: str | None, config: str | None) -> None:
    """Try the failed lines of a batch again: those that are dead, and those that were refused.

    A batch that has ended goes on with them, and gets new output files.

    \b
    Example:
      edge-store queue retry batch_0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.queue.entries import Retry

    settings = load(config).config
    params = Retry(batch_id=batch_id, custom_id=custom_id, attempts_max=settings.queue.attempts_max)
    change(
        settings, "queue.retry", params,
        said=lambda number: click.echo(f"{number} lines of {batch_id} are tried again"),
    )  # fmt: skip


@queue.command()
@config_option
def pause(config: str | None) -> None:
    """Start no more lines; those in flight go on.

    \b
    Example:
      edge-store queue pause
    """
    from edge_store.config import load

    _switch(load(config).config, is_paused=True)


@queue.command()
@config_option
def resume(config: str | None) -> None:
    """Let a paused queue go on.

    \b
    Example:
      edge-store queue resume
    """
    from edge_store.config import load

    _switch(load(config).config, is_paused=False)


@queue.command()
@click.option(
    "--timeout",
    type=POSITIVE,
    default=600.0,
    show_default=True,
    help="Most seconds to wait; then it exits 1.",
)
@config_option
def drain(timeout: float, config: str | None) -> None:
    """Pause the queue and wait until no line is in flight: then a stop of the daemon cuts none.

    \b
    Example:
      edge-store queue drain && systemctl restart edge-store && edge-store queue resume
    """
    from edge_store.config import load
    from edge_store.errors import EdgeStoreError
    from edge_store.status import ask_daemon, known_device_id

    settings = load(config).config
    _switch(settings, is_paused=True)  # ends here when there is no daemon
    device_id = known_device_id(settings)
    ends_at = time.monotonic() + timeout
    while True:
        daemon, problem = ask_daemon(settings.server, device_id)
        if daemon is None:
            raise EdgeStoreError(
                f"the daemon does not answer ({problem})",
                hint="it is asked at server.host and server.port: if it was started with `serve "
                "--port`, set EDGE_STORE_SERVER__PORT",
            )
        found = daemon["queue"]
        if found["is_paused"] and not found["in_flight"]:
            click.echo("no line is in flight")
            return
        if time.monotonic() > ends_at:
            raise EdgeStoreError(f"{found['in_flight']} lines are in flight after {timeout:g} s")
        time.sleep(POLL_S)


def _switch(settings: "Config", *, is_paused: bool) -> None:
    from edge_store.cli.change import change
    from edge_store.queue.entries import Switch

    word = "paused" if is_paused else "resumed"

    def said(is_new: Any) -> None:
        click.echo(f"the queue is {word}" if is_new else f"the queue was {word} already")

    change(settings, "queue.switch", Switch(is_paused=is_paused), said=said)
