"""``edge-store restore``: a database that can be served, of a backup."""

import os
import shlex
from pathlib import Path

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.values import MADE_FILE

__all__ = ["restore"]


@click.command()
@click.argument("backup", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--to", required=True, metavar="FILE", type=MADE_FILE,
    help="The database to write.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar; there is none in a pipe.")
def restore(backup: Path, to: Path, *, quiet: bool) -> None:
    """Make a database of a BACKUP, check all of it, and give it a new timeline.

    Writes over nothing. A box that has a replica has a newer state there, as a rule: `edge-store
    replica restore`.

    \b
    Example:
      edge-store restore today.db.zst --to mybox/results.db
    """
    from edge_store.backup import restore_backup
    from edge_store.cli.restoring import progress_bar, rfc3339, say_keys

    with interruptible(), progress_bar(is_shown=not quiet) as on_progress:
        check = restore_backup(backup, to.absolute(), on_progress=on_progress)
    shown = shlex.quote(str(to))
    click.echo(f"{to}: {check.results} results, under a new timeline")
    click.echo(f"newest commit: {rfc3339(check.newest_at) or 'none yet'}")
    click.echo("checked: every page (integrity_check), every commit (digest chain)")
    say_keys(to)
    click.echo(f"look at it: edge-store query --db {shown}")
    click.echo(
        "serve it:   it is the file that store.path names, by another name: stop the daemon,"
    )
    click.echo("            move the old database, its -wal and -shm and the folder `litestream`")
    click.echo("            beside it away; put this file there; start it again")
    if os.geteuid() == 0:
        click.echo(f"            it is root's now: chown edge-store:edge-store {shown}")
