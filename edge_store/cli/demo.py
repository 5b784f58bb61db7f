"""``edge-store demo``: the whole appliance in half a minute, with real processes."""

import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from edge_store.errors import ConfigError, install

if TYPE_CHECKING:
    from edge_store.tour import Kind

__all__ = ["demo"]


@click.command()
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False),
    help="A new or empty folder to work in; it is kept. Without it: a temporary one.",
)  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the temporary folder too.")
def demo(directory: Path | None, *, keep: bool) -> None:
    """Show what edge-store does, with real processes on this machine only.

    Starts an S3 server and a daemon, asks through the openai SDK, kills the daemon under load,
    starts it again, counts what is there, and pulls the replica. Exits 1 if a step does not hold.

    \b
    Example:
      edge-store demo
      edge-store demo --dir tour
    """
    if find_spec("openai") is None:
        raise _lacks("the Python package openai")
    from edge_store.tour import find_rclone

    rclone = find_rclone()
    if rclone is None:
        raise _lacks("the program rclone")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # as an exception, so that the processes are ended
    if directory is not None:
        _require_empty(directory)
        sys.exit(_tour(directory.absolute(), rclone, is_kept=True))
    if keep:
        name = tempfile.mkdtemp(prefix="edge-store-demo-")
        sys.exit(_tour(Path(name), rclone, is_kept=True))
    with tempfile.TemporaryDirectory(prefix="edge-store-demo-") as name:
        sys.exit(_tour(Path(name), rclone, is_kept=False))


def _tour(folder: Path, rclone: str, *, is_kept: bool) -> int:
    """Give the tour and print its table; the exit code."""
    from edge_store.cli.output import write_rows
    from edge_store.query import QueryResult
    from edge_store.tour import run_tour

    began = time.monotonic()
    steps = run_tour(folder, rclone, _say)
    click.echo()
    rows = [(step.name, step.figure, "yes" if step.holds else "NO") for step in steps]
    table = QueryResult(columns=("step", "figure", "holds"), rows=rows, is_cut=False)
    write_rows(table, "table", sys.stdout)
    click.echo()
    if is_kept:
        click.echo(f"kept in {folder}: edge-store query --config {folder / 'box'}")
    if not steps[-1].holds:
        click.secho(f"FAILED: {steps[-1].name}: {steps[-1].figure}", fg="red", bold=True, err=True)
        return 1
    click.echo(f"all of it held, in {time.monotonic() - began:.0f} s")
    return 0


def _say(kind: "Kind", text: str) -> None:
    from edge_store.tour import Kind

    match kind:
        case Kind.STEP:
            click.secho(f"\n{text}", bold=True)
        case Kind.SHELL:
            click.secho(f"  $ {text}", fg="cyan")
        case Kind.PYTHON:
            click.secho(f"  >>> {text}", fg="cyan")
        case Kind.OUTPUT:
            click.echo(f"  {text}")


def _require_empty(directory: Path) -> None:
    if directory.is_dir() and any(directory.iterdir()):
        raise ConfigError(f"--dir {directory} is not empty", hint="name a new folder")
    directory.mkdir(parents=True, exist_ok=True)


def _lacks(what: str) -> ConfigError:
    return ConfigError(f"the demo needs {what}, which is not here", hint=install("demo"))


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
