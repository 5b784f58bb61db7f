"""``edge-store backup``: a checked copy of the database, in one file."""

import os
import sys
from pathlib import Path

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import bytes_text, write_json
from edge_store.cli.target import chosen_database, target_options

__all__ = ["backup"]


def _named(given: str) -> Path:
    """A name that ends in / is a folder's: of a disk that is not mounted no file is to be made."""
    from edge_store.errors import BackupFailed
    from edge_store.sqlitefiles import require_no_part

    if given.endswith(os.sep) and not Path(given).is_dir():
        raise BackupFailed(
            f"{given} is no folder", hint="is that disk mounted? make the folder, or name a file"
        )
    require_no_part(Path(given))
    return Path(given)


@click.command()
@click.argument("file", callback=lambda _context, _parameter, given: _named(given))
@target_options
@click.option("--no-compress", is_flag=True, help="Write the database as it is, without zstd.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.option("--quiet", is_flag=True, help="No progress bar; there is none in a pipe.")
def backup(
    file: Path,
    db: Path | None,
    config: str | None,
    *,
    no_compress: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a consistent copy of the database to FILE, checked and compressed, and FILE.json.

    It works while the daemon runs, and holds nobody up. FILE may be a folder: then the name says
    box, time and seq. Overwrites nothing. While it works it needs room there for the whole
    database and half of it. Uploaded files of batches, keys to stores and edge-store.toml are not
    in it.

    \b
    Example:
      edge-store backup /mnt/usb/
      edge-store backup today.db.zst --config mybox
      edge-store verify today.db.zst
    """
    from edge_store.backup import backup as write_backup
    from edge_store.cli.restoring import progress_bar

    database = chosen_database(db, config)
    with interruptible(), progress_bar(is_shown=not quiet) as on_progress:
        done = write_backup(database, file, compress=not no_compress, on_progress=on_progress)
    if as_json:
        write_json(done, sys.stdout)
        return
    path = file / done.file if file.is_dir() else file
    size = f"{bytes_text(done.bytes)} of {bytes_text(done.database_bytes)}"
    click.echo(f"{path}: {done.results} results of {done.device_id} up to seq {done.seq}, {size}")
    click.echo(f"copied:  in {done.copied_in_s} s, during which the WAL could only grow")
    click.echo("checked: every page (integrity_check), every commit (digest chain)")
    click.echo(f"sha256:  {done.sha256}")
    click.echo(f"digest:  {done.newest_digest}")
