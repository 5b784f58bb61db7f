"""``edge-store alerts``: what is raised, and whether a person would be told."""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import click

from edge_store.cli.output import chosen_format, output_options, time_text, write_rows

__all__ = ["alerts"]

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.group()
def alerts() -> None:
    """Alarms: which are raised, and whether they reach anybody.

    \b
    Example:
      edge-store alerts ls
      edge-store alerts test
    """


@alerts.command()
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the alarms that are raised, the oldest first. Exits 1 when there is one.

    What a message says is of the time when the condition was last seen.
    Those who are told are named by their place and the scheme of their URL.

    \b
    Example:
      edge-store alerts ls
    """
    from edge_store.cli.change import ask
    from edge_store.config import load
    from edge_store.errors import StoreError
    from edge_store.query import QueryResult

    found = ask(Path(load(config).config.store.path), "GET", "/alerts")
    if found is None:
        raise StoreError(
            "this box's daemon does not run: nobody watches", hint="start it: `edge-store serve`"
        )
    shown = QueryResult(
        columns=("alarm", "since", "seen", "message"),
        rows=[
            (
                each["name"],
                time_text(each["since"]),
                time_text(each.get("seen", each["since"])),
                each["message"],
            )
            for each in found["alarms"]
        ],
        is_cut=False,
    )
    write_rows(shown, chosen_format(fmt, sys.stdout), sys.stdout)
    for target in found["targets"]:
        problem = f", not reached: {target['failure']}" if target["failure"] else ""
        click.echo(f"{target['label']}: {target['waiting']} waiting{problem}", err=True)
    if not found["targets"]:
        click.echo("nobody is told: there are no alert URLs", err=True)
    sys.exit(1 if found["alarms"] else 0)


@alerts.command()
@config_option
def test(config: str | None) -> None:
    """Send a test message to every URL, and say what came of each. Exits 1 when one failed.

    A daemon that runs sends it, to the URLs that it has; else this command does, to those of its
    own environment (EDGE_STORE_ALERT_URLS) or of alerts.urls_file. No URL is shown.

    \b
    Example:
      edge-store alerts test
      EDGE_STORE_ALERT_URLS=mailtos://user:password@example.com edge-store alerts test
    """
    from edge_store.cli.change import ask
    from edge_store.config import load

    settings = load(config).config
    tried = ask(Path(settings.store.path), "POST", "/alerts/test")
    if tried is None:
        tried = _try_here(settings)
    if not tried:
        raise click.ClickException(
            "there are no alert URLs: put them into the credential alert-urls, "
            "EDGE_STORE_ALERT_URLS or alerts.urls_file, and start the daemon again"
        )
    for each in tried:
        service = f" ({each['service']})" if each["service"] else ""
        click.echo(f"{each['label']}{service}: {each['failure'] or 'sent'}")
    sys.exit(1 if any(each["failure"] for each in tried) else 0)


def _try_here(settings: Any) -> Any:
    import msgspec

    from edge_store.alerts.room import alert_urls, try_urls

    device = settings.device.id or socket.gethostname()
    return msgspec.to_builtins(asyncio.run(try_urls(alert_urls(settings.alerts), device)))
