"""``edge-store config show``: what is in force, and why."""

import json
import sys

import click

from edge_store.cli.output import write_json

__all__ = ["config"]

VALUE_CHARS_MAX = 56  # longer values do not push the origins of all the others to the right


@click.group()
def config() -> None:
    """Look at the settings.

    \b
    Example:
      edge-store config show
    """


@config.command()
@click.option("--config", "flag", help="The edge-store.toml to read, or its folder.")
@click.option("--defaults", is_flag=True, help="The defaults alone: read no file, no environment.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of key, value, origin.")
def show(flag: str | None, *, defaults: bool, as_json: bool) -> None:
    """Print every setting with its value and where that was set. Secrets are not shown.

    \b
    Example:
      edge-store config show --config mybox
      edge-store config show --defaults
    """
    from edge_store.config import Config, Loaded, load, shown_settings

    if defaults:
        loaded = Loaded(config=Config(), path=None, origins={})
    else:
        loaded = load(flag, required=False)
    settings = shown_settings(loaded)
    if as_json:
        write_json([s._asdict() for s in settings], sys.stdout)
        return
    rows = [(s.key, json.dumps(s.value, ensure_ascii=False), s.origin) for s in settings]
    key_width = max(len(key) for key, _, _ in rows)
    value_width = min(VALUE_CHARS_MAX, max(len(value) for _, value, _ in rows))
    for key, value, origin in rows:
        click.echo(f"{key:<{key_width}}  {value:<{value_width}}  {origin}")
