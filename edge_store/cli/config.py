"""``edge-store config``: what is in force, and why; and whether it could be."""

import json
import sys

import click

from edge_store.cli.output import write_json

__all__ = ["config"]

VALUE_CHARS_MAX = 56  # longer values do not push the origins of all the others to the right


@click.group()
def config() -> None:
    """Look at the settings, and check them before a restart.

    \b
    Example:
      edge-store config show
      edge-store config check
    """


@config.command()
@click.argument("file", required=False)
@click.option("--config", "flag", help="The edge-store.toml to check, or its folder: as FILE.")
def check(file: str | None, flag: str | None) -> None:
    """Check the settings as `serve` reads them, with those of the environment, and what they name
    on this box: folders, certificates, files, addresses, libraries, and whether an address that
    others reach has API keys. Starts and changes nothing, and looks for no secret but in files that
    are named. FILE may be one that is still to take the place of edge-store.toml, beside it.

    Exits 0, or 78 with what is wrong: of a file that cannot be read as settings the first fault,
    else all. Whether a store, a server or a sink answers, `doctor` and `sinks test` say.

    Not looked at, so `serve` may still refuse them: whether server.host and server.port can be
    listened on, and what a name there stands for; whether device.id is that of the database, and
    whether that is whole; keys and secrets in the daemon's own environment.

    \b
    Example:
      edge-store config check
      edge-store config check /etc/edge-store/edge-store.toml && systemctl restart edge-store
    """
    from edge_store.cli.main import report
    from edge_store.config import load
    from edge_store.errors import ConfigError
    from edge_store.possible import faults_of

    if file and flag:
        raise click.UsageError("FILE and --config name the same: give one of them")
    loaded = load(file or flag)
    faults = list(faults_of(loaded.config))
    for fault in faults:
        report(fault)
    if faults:
        sys.exit(ConfigError.exit_code)
    set_elsewhere = sum(origin.startswith("EDGE_STORE_") for origin in loaded.origins.values())
    beside = f", with {set_elsewhere} settings of the environment" if set_elsewhere else ""
    click.echo(f"{loaded.path}: no fault found{beside}")


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
