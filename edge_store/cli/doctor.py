"""``edge-store doctor``: what could go wrong on this box, and what to do about it."""

import sys
from typing import TYPE_CHECKING

import click

from edge_store.cli.output import write_json

if TYPE_CHECKING:
    from edge_store.result import Check

__all__ = ["doctor", "show"]

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--full", is_flag=True, help="Also read every page of the database (quick_check).")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of checks.")
def doctor(config: str | None, *, full: bool, as_json: bool) -> None:
    """Check this box: programs, settings, database, disk, clock, replica.

    Each check is ok, a warning or failed, with what was found and what to do. Exits 1 when one has
    failed.

    \b
    Example:
      edge-store doctor
      edge-store doctor --config mybox --full
    """
    from edge_store.result import CheckState

    checks = list(_checks(config, full=full))
    if as_json:
        write_json(checks, sys.stdout)
    else:
        for check in checks:
            show(check)
    sys.exit(any(check.state is CheckState.FAILED for check in checks))


def _checks(flag: str | None, *, full: bool) -> "list[Check]":
    from edge_store.config import load
    from edge_store.doctor import check_box, check_machine
    from edge_store.errors import ConfigError
    from edge_store.result import Check, CheckState

    try:
        loaded = load(flag)
    except ConfigError as exc:
        failed = Check(name="config", state=CheckState.FAILED, found=str(exc), advice=exc.hint)
        return [failed, *check_machine(None)]
    read = Check(name="config", state=CheckState.OK, found=str(loaded.path))
    return [read, *check_machine(loaded.config), *check_box(loaded.config, full=full)]


def show(check: "Check") -> None:
    """One finding, with what to do below it."""
    state = click.style(f"{check.state.value:<8}", fg=COLOURS[check.state.value])
    click.echo(f"{state} {check.name:<12} {check.found}")
    if check.advice:
        click.echo(f"{'':<21} {check.advice}")
