"""Finds the command, and prints what went wrong in one place: what failed, then what to do next."""

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from edge_store import __version__, exits
from edge_store.cli.interrupt import Terminated, drop_output, standard_streams
from edge_store.errors import EdgeStoreError

__all__ = ["cli", "ended", "main", "report"]

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
        """Run the command."""
        try:
            return super().invoke(ctx)
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


def ended(work: Callable[[], object]) -> int:
    """Call it, write all of what it said, and print what went wrong with both. Returns the exit
    code: the error's own, as 78 for a wrong configuration.
    """
    raised, unwritten = _raised(work), _raised(sys.stdout.flush)
    exit_codes = [_told(raised)]
    if str(unwritten) != str(raised):
        exit_codes.append(_told(unwritten))
    return next(filter(None, exit_codes), 0)


def _raised(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except BaseException as exc:  # noqa: BLE001  (it is told, and the process ends)
        return exc
    return None


def _told(error: BaseException | None) -> int:
    """Print what ended a command, as whoever called it can use it. Returns the exit code."""
    exit_code = exits.FAILURE
    match error:
        case None:
            exit_code = 0
        case SystemExit():
            exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
        case click.Abort() | KeyboardInterrupt():
            by = (error, error.__cause__)  # click's is made of it; it, of an error of the query
            is_terminated = any(isinstance(each, Terminated) for each in by)
            click.echo("terminated" if is_terminated else "aborted", err=True)
            exit_code = exits.TERMINATED if is_terminated else exits.INTERRUPTED
        case click.ClickException():
            error.show()
            if place := _place_of(error):
                click.echo(f"  {place}", err=True)
            exit_code = error.exit_code
        case BrokenPipeError():
            drop_output()
            exit_code = EXIT_PIPE
        case OSError() if not isinstance(error, PermissionError):
            # a full disk, a folder that is none: the world's fault, in its words
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"edge-store: {where}{error.strerror or error}", err=True)
            drop_output()
        case _:
            exit_code = report(error)
    return exit_code


def main() -> None:
    """The console script."""
    gc.set_threshold(YOUNG_OBJECTS)
    standard_streams()
    if "_EDGE_STORE_COMPLETE" in os.environ:
        importlib.import_module("edge_store.cli.completion")  # which knows what shells make of @
    sys.exit(ended(lambda: cli(standalone_mode=False)))
