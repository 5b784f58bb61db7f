"""Finds the command, and prints what went wrong in one place: what failed, then what to do next."""

import gc
import importlib
import os
import sys
import traceback
from typing import Any

import click

from edge_store import __version__, exits
from edge_store.cli.interrupt import drop_output, standard_streams
from edge_store.errors import EdgeStoreError

__all__ = ["cli", "main", "report"]

YOUNG_OBJECTS = 10_000  # for the collector: by its own 700 it took a sixth of a command's start
EXIT_PIPE = 141  # as a shell shows SIGPIPE: the reader of our output has left, as `head` does

# command -> (module, attribute); imported only when it is called or listed
COMMANDS = {
    "init": "init",
    "serve": "serve",
    "keys": "keys",
    "query": "query",
    "logs": "logs",
    "stats": "stats",
    "export": "export",
    "import": "import_",
    "batch": "batch",
    "queue": "queue",
    "ledger": "ledger",
    "receipt": "receipt",
    "verify": "verify",
    "backup": "backup",
    "restore": "restore",
    "repair": "repair",
    "forget": "forget",
    "retention": "retention",
    "archive": "archive",
    "index": "index",
    "status": "status",
    "doctor": "doctor",
    "support-bundle": "support_bundle",
    "alerts": "alerts",
    "sinks": "sinks",
    "config": "config",
    "completion": "completion",
    "replica": "replica",
    "fleet": "fleet",
    "demo": "demo",
    "bench": "bench",
}


# where it has another name than the command: Python keeps one to itself
MODULES = {"import": "imports", "support-bundle": "support"}


class LazyGroup(click.Group):
    """A group whose commands are modules beside this one."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edge_store.cli.{MODULES.get(cmd_name, cmd_name)}")
        command = getattr(module, COMMANDS[cmd_name])
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, which suggests only commands that are imported."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            meant = difflib.get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"No such command {name!r}.{f' Did you mean {meant[0]!r}?' if meant else ''}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and write all of what it said."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # click would exit with 1
            drop_output()
            sys.exit(EXIT_PIPE)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-store")
def cli() -> None:
    """Run an LLM on this box and keep every answer.

    \b
    Begin with:
      edge-store init mybox --engine demo
      edge-store serve --config mybox
      edge-store query --config mybox
    """


def report(error: BaseException) -> int:
    """Print what went wrong, with a traceback if nobody foresaw it. Returns the exit code."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case EdgeStoreError():
            click.echo(f"edge-store: {error}", err=True)
            if error.hint:
                click.echo(f"  {error.hint}", err=True)
            return error.exit_code
        case PermissionError():
            click.echo(f"edge-store: {error.filename}: {error.strerror}", err=True)
            click.echo("  run it as a user of the group that owns the file", err=True)
            return exits.NO_PERMISSION
        case _:
            traceback.print_exception(error)
            return exits.FAILURE


def _place_of(error: click.ClickException) -> str:
    """Where an option goes that was given to a group, and that its commands have."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return ""
    group = error.ctx.command
    for name in group.list_commands(error.ctx) if isinstance(group, click.Group) else ():
        assert isinstance(group, click.Group)
        command = group.get_command(error.ctx, name)
        if command and any(error.option_name in option.opts for option in command.params):
            return f"it goes behind a command: {error.ctx.command_path} {name} {error.option_name}"
    return ""


def main() -> None:
    """The console script. Exits with the error's own code: 78 for a wrong configuration."""
    gc.set_threshold(YOUNG_OBJECTS)
    standard_streams()
    if "_EDGE_STORE_COMPLETE" in os.environ:
        importlib.import_module("edge_store.cli.completion")  # which knows what shells make of @
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        click.echo("aborted", err=True)
        sys.exit(exits.INTERRUPTED)
    except click.ClickException as exc:
        exc.show()
        if place := _place_of(exc):
            click.echo(f"  {place}", err=True)
        sys.exit(exc.exit_code)
    except (EdgeStoreError, PermissionError) as exc:
        sys.exit(report(exc))
    except OSError as exc:  # a full disk, a folder that is none: the world's fault, in its words
        where = f"{exc.filename}: " if exc.filename else ""
        click.echo(f"edge-store: {where}{exc.strerror or exc}", err=True)
        drop_output()
        sys.exit(exits.FAILURE)
