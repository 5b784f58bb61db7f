"""Finds the command, and prints what went wrong in one place: what failed, then what to do next."""

import importlib
import os
import sys
import traceback

import click

from edge_store import __version__
from edge_store.errors import EXIT_FAILURE, EXIT_NO_PERMISSION, EdgeStoreError

__all__ = ["cli", "main", "report"]

# command -> (module, attribute); imported only when it is called or listed
COMMANDS = {
    "init": "init",
    "serve": "serve",
    "query": "query",
    "status": "status",
    "doctor": "doctor",
    "config": "config",
    "replica": "replica",
    "fleet": "fleet",
    "demo": "demo",
    "bench": "bench",
}


class LazyGroup(click.Group):
    """A group whose commands are modules beside this one."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edge_store.cli.{cmd_name}")
        command = getattr(module, COMMANDS[cmd_name])
        assert isinstance(command, click.Command)
        return command


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
            return EXIT_NO_PERMISSION
        case _:
            traceback.print_exception(error)
            return EXIT_FAILURE


def main() -> None:
    """The console script. Exits with the error's own code: 78 for a wrong configuration."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        click.echo("aborted", err=True)
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (EdgeStoreError, PermissionError) as exc:
        sys.exit(report(exc))
    except BrokenPipeError:
        # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
