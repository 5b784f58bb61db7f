"""``edge-store archive``: what retention has put away as Parquet."""

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, time_text, write_rows
from edge_store.cli.values import MADE_FILE, MOMENT, POSITIVE, bound, tell_unused, value_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_store.archive.store import ArchiveStore
    from edge_store.config import Config
    from edge_store.selection import Selection
    from edge_store.sqlite import Connection

__all__ = ["archive", "beside_archive"]

COLUMNS = ("no", "what", "rows", "bytes", "from", "to", "state", "file")

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")
since_option = click.option(
    "--since", type=MOMENT, help="Answers that ended from then on: 2h (ago), 2026-11-01."
)
until_option = click.option("--until", type=MOMENT, help="Answers that ended before then.")


@click.group()
def archive() -> None:
    """What retention has put away as Parquet before it deleted it.

    \b
    Example:
      edge-store archive ls
      edge-store archive query "select count(*) from generations" --since 2026-01-01
      edge-store archive restore --to old.db --until 2026-02-01
    """


@contextmanager
def beside_archive(
    config: str | None, selection: "Selection", statement: str
) -> "Iterator[Connection]":
    """A reader of the box's results, live and archived; see ``archive.loading.together``. Files of
    what ended before ``selection.since`` are not looked at.
    """
    from edge_store.archive.loading import together

    settings = _settings(config)
    path, url = Path(settings.store.path), settings.retention.archive
    with together(path, url, (selection.since, None), selection, statement) as connection:
        yield connection


def _settings(config: str | None) -> "Config":
    from edge_store.config import load
    from edge_store.errors import ConfigError

    settings = load(config).config
    if not settings.retention.archive:
        raise ConfigError(
            "this box has no archive", hint="retention.archive names a folder or an object store"
        )
    return settings


@archive.command("ls")
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the files, the oldest first. `verified`: its results are being deleted here; `done`:
    they are; `not whole`: it is being written, or a pass was cut there.

    \b
    Example:
      edge-store archive ls --json
    """
    from contextlib import closing

    from edge_store.archive.ledger import read_archives
    from edge_store.archive.store import ArchiveStore
    from edge_store.config import load
    from edge_store.query import QueryResult
    from edge_store.sqlite import open_reader

    settings = load(config).config
    with closing(open_reader(Path(settings.store.path))) as connection:
        archives = read_archives(connection)
        rows = [
            (
                each.archive_no, each.what, each.rows, each.bytes, time_text(each.completed_from),
                time_text(each.completed_to), _state(each.verified_at, each.emptied_at), each.file,
            )
            for each in archives
            if each.rows
        ]  # fmt: skip
    emptied = len(archives) - len(rows)
    if emptied:
        _tell(f"{emptied} more had only what was forgotten since, and are removed")
    if not settings.retention.archive:
        _tell("this box has no archive: retention.archive is empty")
    elif (store := ArchiveStore(settings.retention.archive)).is_missing:
        _tell(_missing_text(store, has_files=bool(rows)))
    result = QueryResult(columns=COLUMNS, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)


def _counted(count: int, what: str) -> str:
    """As 1 file, 2 files."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _tell(text: str) -> None:
    click.echo(f"edge-store: {text}", err=True)


def _missing_text(store: "ArchiveStore", *, has_files: bool) -> str:
    if has_files:
        return f"the archive {store} is not there: is its disk mounted?"
    return f"the archive {store} is not there yet: the first file that is written makes its folder"


def _state(verified_at: int | None, emptied_at: int | None) -> str:
    if verified_at is None:
        return "not whole"
    return "verified" if emptied_at is None else "done"


@archive.command()
@config_option
def verify(config: str | None) -> None:
    """Read every file and take the digest of every result in it again.

    Exits 1 when one is not there, or is not as it was written; at once when the store does not
    answer. What is there and no row of the database names, as after a restore to an earlier state,
    is told, too.

    \b
    Example:
      edge-store archive verify
    """
    from contextlib import closing

    from edge_store.archive.checking import check_archive
    from edge_store.archive.store import ArchiveStore
    from edge_store.identity import read_device_id
    from edge_store.sqlite import open_reader

    settings = _settings(config)
    store = ArchiveStore(settings.retention.archive)

    with closing(open_reader(Path(settings.store.path))) as connection, interruptible():
        device = read_device_id(connection) or ""
        files, rows, bad, unknown = check_archive(store, connection, device, _tell)
    if store.is_missing:
        _tell(_missing_text(store, has_files=False))
    for name in unknown:
        _tell(f"{name} is there, and no row of `archives` names it")
    if bad:
        click.echo(
            f"{bad} of {files} files are missing or changed; in the others {rows} results are "
            "as they were committed"
        )
        sys.exit(1)
    click.echo(f"{_counted(files, 'file')}, {_counted(rows, 'result')}: as they were committed")


@archive.command()
@click.option(
    "--to", "target", metavar="FILE", type=MADE_FILE, required=True,
    help="The database that is made of them; it must not be there yet.",
)  # fmt: skip
@since_option
@until_option
@config_option
def restore(target: Path, since: int | None, until: int | None, config: str | None) -> None:
    """Copy archived results into a new database, FILE, to query and to export them.

    The box's own database stays as it is, without them: its chain says that they are deleted. The
    archive stays, too. What was forgotten is in neither. The digest of each result is taken again,
    so each is as it was committed; its commits are in the box alone, which is the one fault that
    `edge-store verify --db FILE` finds in it.

    \b
    Example:
      edge-store archive restore --to old.db --since 2026-01-01 --until 2026-02-01
      edge-store query --db old.db "select count(*) from generations"
    """
    from edge_store.archive.loading import restore as put_back

    settings = _settings(config)
    os.umask(0o027)  # the results are for their owner and group
    with interruptible():
        rows = put_back(
            Path(settings.store.path), settings.retention.archive, target, (since, until)
        )
    click.echo(f"{_counted(rows, 'result')} copied from the archive into {target}, as committed")
    click.echo(f"ask it: edge-store query --db {shlex.quote(str(target))}")


@archive.command()
@click.argument("statement", metavar="SQL")
@since_option
@until_option
@value_options
@click.option("--limit", type=click.IntRange(min=1), default=10_000, show_default=True,
              help="Most rows to print.")  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=60.0, show_default=True, help="Most seconds to run."
)
@config_option
@output_options
def query(  # noqa: PLR0913  (one parameter per option)
    statement: str,
    since: int | None,
    until: int | None,
    params: tuple[tuple[str, str], ...],
    texts: tuple[tuple[str, str], ...],
    limit: int,
    timeout: float,
    config: str | None,
    fmt: str | None,
) -> None:
    """Run one read-only SQL statement over what is archived: the same tables and views.

    The files of that time are fetched and loaded into a temporary database first, so narrow it by
    --since and --until. `edge-store query --with-archive` asks the live results, too.

    \b
    Example:
      edge-store archive query "select model, count(*) from generations group by 1"
      edge-store archive query "select id from results" --since 2026-01-01 --until 2026-01-08
    """
    from contextlib import closing

    from edge_store.archive.loading import scratch
    from edge_store.query import run_query
    from edge_store.sqlite import open_reader

    settings = _settings(config)
    path = Path(settings.store.path)
    with (
        interruptible(),
        scratch(path, settings.retention.archive, (since, until)) as made,
        closing(open_reader(made)) as connection,
    ):
        result = run_query(
            connection, statement, bound(params, texts), rows_max=limit, timeout_s=timeout
        )
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)
    tell_unused(result.unused)
