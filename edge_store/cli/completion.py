"""``edge-store completion``: what the Tab key gives in bash, zsh and fish.

The script calls the command itself at each Tab (click's protocol), so commands, options and their
values are those of the version that is installed.
"""

import click
from click.shell_completion import BashComplete, FishComplete, add_completion_class

__all__ = ["COMPLETE_VARIABLE", "completion"]

PROGRAM = "edge-store"
COMPLETE_VARIABLE = "_EDGE_STORE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


class Bash(BashComplete):
    """bash tells of @slow as of two words, and puts one in their place."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The whole words before the cursor, and the one at it."""
        args, incomplete = super().get_completion_args()
        if args and args[-1] == "@":
            return args[:-1], f"@{incomplete}"
        return args, incomplete


class Fish(FishComplete):
    """A completion of ours may have commas in it."""

    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )


add_completion_class(Bash)
add_completion_class(Fish)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that lets the Tab key complete commands, options, @saved queries, and tables
    and columns inside the SQL of `query`.

    \b
    Example:
      echo 'eval "$(edge-store completion bash)"' >> ~/.bashrc
      echo 'eval "$(edge-store completion zsh)"' >> ~/.zshrc
      edge-store completion fish > ~/.config/fish/completions/edge-store.fish
    """
    from click.shell_completion import get_completion_class

    from edge_store.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, PROGRAM, COMPLETE_VARIABLE).source())
