"""``edge-store fleet export`` and ``fleet lake``: all boxes' results as Delta tables."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.output import chosen_format, json_line, output_options, write_rows
from edge_store.cli.values import duration_s

if TYPE_CHECKING:
    from edge_store.fleet.lake.export import CopyReport, TableReport
    from edge_store.fleet.lake.store import Lake

__all__ = ["export", "lake"]

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("results", "outputs", "requests")
MIB = 2**20
DAY_S, HOUR_S = 86_400, 3_600
VACUUM_HOURS_MIN = 24  # an export takes less from a file's writing to its commit


def lake_option(command: F) -> F:
    """Which lake."""
    return click.option(
        "--lake", "url",
        help="Where the lake lies: a folder, or s3://bucket/prefix; else `lake` of fleet.toml.",
    )(command)  # fmt: skip


def place_options(command: F) -> F:
    """Which lake: by its address, or by the folder whose fleet.toml names it."""
    return click.option(
        "--in", "folder", help="The folder of `fleet pull`, whose fleet.toml names the lake.",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
    )(lake_option(command))  # fmt: skip


def table_option(command: F) -> F:
    """Which of its tables."""
    return click.option(
        "--table", "tables", type=click.Choice(NAMES), multiple=True,
        help="Only this table; may be given again.",
    )(command)  # fmt: skip


def writer_option(command: F) -> F:
    """The operator's word where the store cannot tell."""
    return click.option(
        "--only-writer", is_flag=True,
        help="Nothing else writes to this lake meanwhile: for stores without conditional writes.",
    )(command)  # fmt: skip


@click.command()
@click.option(
    "--in", "folder", required=True, help="The folder that `fleet pull` filled.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@lake_option
@table_option
@click.option(
    "--buckets", default=4, show_default=True, type=click.IntRange(1, 1024),
    help="Partitions of boxes in each day, of a table that is made.",
)  # fmt: skip
@writer_option
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each copy and each table.")
def export(
    *,
    folder: Path,
    url: str | None,
    tables: tuple[str, ...],
    buckets: int,
    only_writer: bool,
    as_json: bool,
) -> None:
    """Append to the lake what the copies have and it lacks; delete what boxes have forgotten.

    Without --table, that is results and outputs; `requests`, with the exact bodies, on request.
    What is forgotten goes in every table that the lake has.
    Older copies that were kept aside are exported, too. What a box has deleted by its retention
    stays in the lake; what it has forgotten goes there too, with its bytes. May be stopped at any
    moment, and run again: no row is there twice. Exits 1 if a copy could not be read.

    \b
    Example:
      edge-store fleet export --in fleet --lake s3://lake/edge?endpoint=https://host
    """
    from edge_store.fleet.lake.export import ExportPlan, find_all_copies
    from edge_store.fleet.lake.export import export as export_copies

    where = _lake(url, folder, only_writer=only_writer)
    plan = ExportPlan(copies=find_all_copies(folder), tables=tables or NAMES[:2], buckets=buckets)
    show = _json if as_json else _copy_line
    done = export_copies(plan, where, lambda report: click.echo(show(report)))
    for report in done:
        click.echo(_json(report) if as_json else _table_line(report))
    if any(report.failed for report in done):
        sys.exit(1)


def _lake(url: str | None, folder: Path | None, *, only_writer: bool) -> "Lake":
    """The lake, to be written."""
    from edge_store.fleet.lake.writers import require_conditions, require_ranges

    found = _place(url, folder)
    require_ranges(found)
    if not only_writer:
        require_conditions(found)
    return found


def _place(url: str | None, folder: Path | None) -> "Lake":
    from edge_store.fleet.lake.store import Lake
    from edge_store.fleet.registry import load_registry

    named = url or (load_registry(folder).lake if folder else None)
    if named is None:
        raise click.UsageError("say --lake, or name a `lake` in the fleet.toml of --in")
    return Lake(named)


def _json(report: Any) -> str:
    return json_line(report, sys.stdout)


def _copy_line(report: "CopyReport") -> str:
    line = f"{report.copy.name:<32}"
    if report.table is not None:
        line += f" {report.table:<9}"
    if report.rows:
        line += f" {report.rows} rows"
    if report.forgotten:
        line += f" {report.forgotten} forgotten rows deleted"
    if report.too_old:
        line += f" {report.too_old} rows left out: the lake keeps none of days that old"
    if report.conflicts:
        line += (
            f"; the lake has {len(report.conflicts)} of these ids with other content, and both "
            f"now: {', '.join(report.conflicts[:3])}"
        )
    if report.error is not None:
        line += f" failed  {report.code}: {report.error}"
    return line


def _table_line(report: "TableReport") -> str:
    line = f"{report.table}: {report.rows} rows appended"
    if report.forgotten:
        line += f", {report.forgotten} forgotten rows deleted"
    if report.too_old:
        line += f", {report.too_old} too old"
    return f"{line}, {report.seconds:.1f} s, {report.cpu_seconds:.1f} CPU-s"


@click.group()
def lake() -> None:
    """What is in a lake, and what keeps it small.

    \b
    Example:
      edge-store fleet lake ls --lake lake
    """


@lake.command()
@place_options
@output_options
def ls(*, url: str | None, folder: Path | None, fmt: str | None) -> None:
    """Show each table: rows, files, bytes, days.

    \b
    Example:
      edge-store fleet lake ls --lake lake
    """
    from edge_store.fleet.lake.care import states
    from edge_store.fleet.lake.store import watermarks
    from edge_store.query import QueryResult

    where = _place(url, folder)
    found = states(where, dict(watermarks(where).tables))
    if not found:
        click.echo(f"there is no lake at {where}: `edge-store fleet export` makes it", err=True)
    columns = ("table", "version", "rows", "files", "bytes", "bytes_per_row", "first_day",
               "last_day", "buckets", "kept_since")  # fmt: skip
    rows = [
        (
            each.table, each.version, each.rows, each.files, each.bytes,
            round(each.bytes / each.rows, 1) if each.rows else None,
            *(str(day) if day else None for day in (each.first_day, each.last_day)),
            each.buckets, str(each.kept_since) if each.kept_since else None,
        )
        for each in found
    ]  # fmt: skip
    result = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)


@lake.command()
@place_options
@table_option
@click.option(
    "--file-size", default=128, show_default=True, type=click.IntRange(1, 4096),
    help="MiB that a file should have.",
)  # fmt: skip
@writer_option
def compact(
    *,
    url: str | None,
    folder: Path | None,
    tables: tuple[str, ...],
    file_size: int,
    only_writer: bool,
) -> None:
    """Make few large files of the many small ones that exports leave in each partition.

    The small ones stay for readers that have begun; `vacuum` removes them.

    \b
    Example:
      edge-store fleet lake compact --lake lake
    """
    from edge_store.fleet.lake.care import compact as compact_table

    where = _lake(url, folder, only_writer=only_writer)
    for table in _tables(where, tables, with_forgotten=True):
        done = compact_table(where, table, file_size * MIB)
        click.echo(f"{table}: {done.files_before} files are {done.files_after} now")


@lake.command()
@place_options
@table_option
@click.option("--older-than", required=True, help="Whole days to keep: 365d.")
@writer_option
def expire(
    *,
    url: str | None,
    folder: Path | None,
    tables: tuple[str, ...],
    older_than: str,
    only_writer: bool,
) -> None:
    """Delete the days that are older than that, by UTC day of admission.

    They do not come back with a copy that still has them. `vacuum` removes their files.

    \b
    Example:
      edge-store fleet lake expire --lake lake --older-than 365d
    """
    from edge_store.fleet.lake.care import expire as expire_table

    days = int(_seconds(older_than, "--older-than") // DAY_S)
    if days < 1:
        raise click.UsageError("--older-than is at least 1d")
    where = _lake(url, folder, only_writer=only_writer)
    for table in _tables(where, tables):
        click.echo(f"{table}: {expire_table(where, table, days)} rows deleted")


@lake.command()
@place_options
@table_option
@click.option(
    "--older-than", default="7d", show_default=True,
    help="Leave files that readers or writers may be at: those of that span.",
)  # fmt: skip
@writer_option
def vacuum(
    *,
    url: str | None,
    folder: Path | None,
    tables: tuple[str, ...],
    older_than: str,
    only_writer: bool,
) -> None:
    """Remove files that no commit has in force, and those of exports that were killed.

    Those of the last 24 hours stay, as an export may be writing them.

    \b
    Example:
      edge-store fleet lake vacuum --lake lake --older-than 2d
    """
    from edge_store.fleet.lake.care import vacuum as vacuum_table

    hours = int(_seconds(older_than, "--older-than") // HOUR_S)
    if hours < VACUUM_HOURS_MIN:
        raise click.UsageError(
            f"--older-than is at least {VACUUM_HOURS_MIN}h: what an export is writing would go, too"
        )
    where = _lake(url, folder, only_writer=only_writer)
    for table in _tables(where, tables, with_forgotten=True):
        click.echo(f"{table}: {vacuum_table(where, table, hours)} files removed")


def _seconds(text: str, option: str) -> float:
    seconds = duration_s(text)
    if seconds is None:
        raise click.UsageError(f"{option}: {text} is not a span of time: 12h, 7d")
    return seconds


def _tables(
    where: "Lake", tables: tuple[str, ...], *, with_forgotten: bool = False
) -> tuple[str, ...]:
    """Those that are named, else all."""
    from edge_store.errors import NotFound
    from edge_store.fleet.lake.store import watermarks
    from edge_store.fleet.lake.tombstones import FORGOTTEN

    found = tables or tuple(watermarks(where).tables)
    if not found:
        raise NotFound(f"there is no lake at {where}", hint="`edge-store fleet export` makes it")
    if with_forgotten and not tables and where.find(FORGOTTEN) is not None:
        return (*found, FORGOTTEN)
    return found
