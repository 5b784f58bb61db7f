"""``edge-store fleet``: bring many boxes' databases here, and ask questions across them."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.fleet_health import health
from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.values import POSITIVE, bound, value_options

if TYPE_CHECKING:
    from edge_store.fleet.pull import BoxReport
    from edge_store.replica.heads import Head

__all__ = ["fleet"]


@click.group()
def fleet() -> None:
    """Many boxes from one place.

    \b
    Example:
      edge-store fleet pull --from s3://edge/fleet?endpoint=https://host --into fleet
      edge-store fleet query "select device_id, count(*) from results group by 1" --in fleet
    """


@fleet.command()
@click.option("--from", "url", required=True, help="Where boxes replicate to: a URL or a folder.")
@click.option(
    "--into", required=True, type=click.Path(path_type=Path), help="The folder for the copies."
)
@click.option("--jobs", default=4, show_default=True, type=click.IntRange(1, 64), help="At a time.")
@click.option(
    "--timeout", type=POSITIVE, default=600.0, show_default=True, help="Most seconds for one box."
)
@click.option("--full", is_flag=True, help="Restore every box, whatever is here.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each box.")
def pull(*, url: str, into: Path, jobs: int, timeout: float, full: bool, as_json: bool) -> None:
    """Bring every box found there to INTO/<device id>.db, each one checked.

    A box whose head is as it was at the last pull is left alone. A copy is brought forward by what
    is new in its replica: that is checked against the head, SQLite's structure, and the digests of
    what came. Where that cannot be, and with --full, the box is restored and all of it checked; do
    that now and then, as once a day.

    A copy is replaced only by a good newer one. If the new one does not continue it (the box was
    set up anew, or restored from an earlier point), the older one is kept beside it, as
    <device id>.<time of its newest commit>.db; `fleet query` leaves it out, and `query --db` reads
    it. Exits 1 if any box failed.

    \b
    Example:
      edge-store fleet pull --from file:///mnt/replicas --into fleet
    """
    from edge_store.fleet.heads import list_heads
    from edge_store.fleet.pull import PullPlan
    from edge_store.fleet.pull import pull as pull_fleet
    from edge_store.replica.extent import list_devices
    from edge_store.replica.location import parse_location, read_credentials
    from edge_store.replica.objects import Objects

    location = parse_location(url, key="--from")
    credentials = read_credentials(location)

    async def pulled() -> "list[BoxReport]":
        heads = await list_heads(Objects(location, credentials))
        devices = await list_devices(location, credentials, heads)
        plan = PullPlan(
            location=location, heads=heads, into=into, jobs=jobs, timeout_s=timeout, is_full=full
        )
        with _progress(len(devices), _json_line if as_json else _line) as on_report:
            return await pull_fleet(plan, devices, on_report)

    reports = asyncio.run(pulled())
    failed = sum(report.error is not None for report in reports)
    click.echo(f"{len(reports) - failed} of {len(reports)} boxes are in {into}", err=True)
    if failed:
        sys.exit(1)


@contextmanager
def _progress(
    total: int, line: Callable[["BoxReport"], str]
) -> Iterator[Callable[["BoxReport"], None]]:
    """A bar on a terminal's standard error; the report lines go to standard output."""
    if not sys.stderr.isatty():
        yield lambda report: click.echo(line(report))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("boxes", total=total)

        def report_one(report: "BoxReport") -> None:
            click.echo(line(report))
            bar.advance(task)

        yield report_one


def _line(report: "BoxReport") -> str:
    name = f"{report.device_id:<24}"
    if report.error is not None:
        return f"{name} failed  {report.code}: {report.error}"
    line = f"{name} {report.how:<9} {_extent(report)}, {_bytes(report)}{report.seconds:.1f} s"
    if report.because is not None:
        line += f"; restored, as {report.because}"
    if report.kept is not None:
        line += f"; it does not continue the older copy, which is kept as {report.kept}"
    if report.forgotten:
        line += f"; {report.forgotten} forgotten results deleted in older copies"
    for older in report.not_forgotten:
        line += f"; {older} cannot be written: what the box has forgotten may be in it"
    return line


def _json_line(report: "BoxReport") -> str:
    import msgspec

    return msgspec.json.encode(report, enc_hook=str).decode()


def _bytes(report: "BoxReport") -> str:
    return f"{report.downloaded_bytes / 1e3:,.0f} kB, " if report.downloaded_bytes else ""


def _extent(report: "BoxReport") -> str:
    if report.newest_at is None:
        return "nothing was committed yet"
    moment = datetime.fromtimestamp(report.newest_at / 1000, tz=UTC)
    newest = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"{report.results} results up to {newest}"


@fleet.command()
@click.option("--from", "url", required=True, help="Where boxes replicate to: a URL or a folder.")
@click.option(
    "--in", "folder", help="The folder that `fleet pull` filled, to compare.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@click.option(
    "--dead-after", type=POSITIVE, default=24.0, show_default=True, help="Hours without a sign.",
)  # fmt: skip
@output_options
def heads(url: str, folder: Path | None, dead_after: float, fmt: str | None) -> None:
    """Tell which boxes are alive, by the heads that they keep beside their replicas.

    A box whose replica holds everything renews its head every five minutes. `alive` and `idle`: it
    did, and there is more than in the copy here, or not. `late`: not for eleven minutes; it has no
    network, or its replica is stuck. `dead`: not for so many hours. `tampered`: its head and the
    copy here contradict each other. Exits 1 if any is dead, tampered or unreadable.

    \b
    Example:
      edge-store fleet heads --from s3://edge/fleet?endpoint=https://host --in fleet
    """
    from edge_store.clock import now_ms
    from edge_store.fleet.heads import BAD, judged_heads, read_heads
    from edge_store.query import QueryResult
    from edge_store.replica.location import parse_location, read_credentials
    from edge_store.replica.objects import Objects

    location = parse_location(url, key="--from")
    seen = asyncio.run(read_heads(Objects(location, read_credentials(location))))
    judged = judged_heads(seen, now_ms(), folder, 3600 * dead_after)
    columns = ("device_id", "state", "pulse_age_s", "seq", "rows", "txid", "version", "message")
    rows = [
        (each.device_id, each.state.value, each.pulse_age_s, *_of_head(each.head), each.message)
        for each in judged
    ]
    result = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)
    if any(each.state in BAD for each in judged):
        sys.exit(1)


def _of_head(head: "Head | None") -> tuple[int | str | None, ...]:
    if head is None:
        return (None,) * 4
    return head.seq, head.rows, f"{head.txid:016x}", head.version


@fleet.command()
@click.argument("statement", metavar="SQL")
@click.option(
    "--in", "folder", required=True, help="The folder that `fleet pull` filled.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@value_options
@click.option("--limit", default=10_000, show_default=True, help="Most rows to print.")
@click.option(
    "--timeout", type=POSITIVE, default=60.0, show_default=True, help="Most seconds to run."
)
@output_options
def query(  # noqa: PLR0913  (one parameter per option)
    statement: str,
    folder: Path,
    params: tuple[tuple[str, str], ...],
    texts: tuple[tuple[str, str], ...],
    limit: int,
    timeout: float,
    fmt: str | None,
) -> None:
    """Run one read-only SQL statement over all copies in a folder.

    The copies are those named <device id>.db, one of each box. The statement sees the tables and
    views of a box, each the union over all boxes, with a device_id column.
    Exits 1 if a copy could not be read; the others are answered for.

    \b
    Example:
      edge-store fleet query "select device_id, count(*) from results group by 1" --in fleet
    """
    from edge_store.fleet.query import find_copies, query_fleet

    copies = find_copies(folder)
    with interruptible():
        answer = query_fleet(
            copies, statement, bound(params, texts), rows_max=limit, timeout_s=timeout
        )
    write_rows(answer.result, chosen_format(fmt, sys.stdout), sys.stdout)
    if answer.result.is_cut:
        click.echo(f"edge-store: only the first {limit} rows; --limit N shows more", err=True)
    for unread in answer.unread:
        click.echo(f"edge-store: not in this answer: {unread.error}", err=True)
    if answer.unread:
        sys.exit(1)


fleet.add_command(health)
