"""``edge-store fleet pull``: bring many boxes' databases here, once or again and again."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.output import json_line, time_text
from edge_store.cli.restoring import moment
from edge_store.cli.values import AT_LEAST_ZERO, POSITIVE, SIZE, WRITTEN_FILE, group_option

if TYPE_CHECKING:
    from edge_store.errors import EdgeStoreError
    from edge_store.fleet.passes import Asked, PassReport
    from edge_store.fleet.report import BoxReport

__all__ = ["pull"]

DAY_S = 86_400.0
BANDWIDTH_MIN = 64_000  # bytes/s: what arrives at once, 128 KiB, then takes 2 s


@click.command()
@click.option("--from", "url", help="Where boxes replicate to; else the stores of fleet.toml.")
@click.option(
    "--into", required=True, type=click.Path(path_type=Path), help="The folder for the copies."
)
@group_option
@click.option(
    "--since", callback=moment, metavar="TIME",
    help="Only boxes whose head was put since: 2026-01-31T08:00:00Z, or 2h.",
)  # fmt: skip
@click.option("--jobs", default=4, show_default=True, type=click.IntRange(1, 64), help="At a time.")
@click.option(
    "--timeout", type=POSITIVE, default=600.0, show_default=True,
    help="Most seconds for one attempt at a box.",
)  # fmt: skip
@click.option(
    "--attempts", type=click.IntRange(1, 20), default=3, show_default=True,
    help="At a box, while its store does not answer; after 1, 2, 4 … s.",
)  # fmt: skip
@click.option("--full", is_flag=True, help="Restore every box, whatever is here.")
@click.option(
    "--full-every", type=AT_LEAST_ZERO, default=7.0, show_default=True, metavar="DAYS",
    help="Restore a box whose copy was brought forward since, so many days after its last restore "
    "at the latest. 0: never.",
)  # fmt: skip
@click.option(
    "--bandwidth", type=SIZE, metavar="SIZE",
    help="Most bytes a second, of all downloads together, as 2MB.",
)  # fmt: skip
@click.option(
    "--disk-max", type=SIZE, metavar="SIZE",
    help="Most bytes of copies, as 500GB. The oldest of those kept beside are deleted for it.",
)  # fmt: skip
@click.option(
    "--watch", "every_s", type=POSITIVE, metavar="SECONDS", help="Pull again and again, so often."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each box.")
@click.option(
    "--report", "report_path", type=WRITTEN_FILE, metavar="FILE",
    help="Write all of what became of it there, as one JSON object.",
)  # fmt: skip
def pull(  # noqa: PLR0913  (one parameter per option)
    *,
    url: str | None,
    into: Path,
    group: dict[str, str],
    since: datetime | None,
    jobs: int,
    timeout: float,
    attempts: int,
    full: bool,
    full_every: float,
    bandwidth: int | None,
    disk_max: int | None,
    every_s: float | None,
    as_json: bool,
    report_path: Path | None,
) -> None:
    """Bring every box found there to INTO/<device id>.db, each one checked.

    A box whose head is as it was at the last pull is left alone. A copy is brought forward by what
    is new in its replica: that is checked against the head, SQLite's structure, and the digests of
    what came. Where that cannot be, with --full, and --full-every so many days, the box is restored
    and all of it checked.

    A copy is replaced only by a good newer one. If the new one does not continue it (the box was
    set up anew, or restored from an earlier point), or the box's retention has deleted what neither
    the lake of fleet.toml nor another copy has, the older one is kept beside it, as
    <device id>.<time of its newest commit>.db; `fleet export` takes it, too, and `query --db` reads
    it. Exits 1 if any box failed, or a store did not answer.

    With --watch it pulls until it is stopped; boxes that are unchanged have no line then.

    \b
    Example:
      edge-store fleet pull --from file:///mnt/replicas --into fleet
      edge-store fleet pull --into fleet --group site=berlin --watch 60 --disk-max 500GB
    """
    from edge_store.fleet.pace import Pace
    from edge_store.fleet.passes import Asked
    from edge_store.fleet.pull import PullPlan
    from edge_store.fleet.report import Manner
    from edge_store.fleet.waits import Waits
    from edge_store.replica.download import unpaced
    from edge_store.replica.location import parse_location

    if bandwidth is not None and bandwidth < BANDWIDTH_MIN:
        raise click.BadParameter(f"at least {BANDWIDTH_MIN} bytes/s", param_hint="--bandwidth")
    pace = Pace(bandwidth) if bandwidth else None
    asked = Asked(
        plan=PullPlan(
            manner=Manner(
                into=into,
                timeout_s=timeout,
                is_full=full,
                full_every_s=full_every * DAY_S,
                pace=pace.wait if pace else unpaced,
            ),
            jobs=jobs,
            attempts=attempts,
            disk_max=disk_max,
            waits=Waits() if every_s else None,
        ),
        location=parse_location(url, key="--from") if url else None,
        group=group,
        since=round(since.timestamp() * 1000) if since else None,
    )
    try:
        is_good = asyncio.run(
            _pulled(asked, every_s, _json_line if as_json else _line, report_path)
        )
    finally:
        if pace:
            pace.end()
    if not is_good:
        sys.exit(1)


async def _pulled(
    asked: "Asked",
    every_s: float | None,
    line: Callable[["BoxReport"], str],
    report_path: Path | None,
) -> bool:
    """Whether all is well: of a watch, that it was stopped."""
    from edge_store.fleet.passes import disk_errors, keep_report, run_pass, watch

    async def one_pass() -> "PassReport":
        with _progress(line, all_lines=every_s is None) as (on_found, on_report):
            report = await run_pass(asked, on_found, on_report)
        _say_total(report, asked.plan.manner.into)
        if report_path is not None:
            await asyncio.to_thread(keep_report, report, report_path)
        return report

    if every_s is None:
        with disk_errors(asked.plan.manner.into):
            return (await one_pass()).is_good

    async def again() -> None:
        await one_pass()

    watching = asyncio.ensure_future(watch(every_s, again, _say_error))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    with suppress(asyncio.CancelledError):
        await watching
    return True


def _say_total(report: "PassReport", into: Path) -> None:
    for evicted in report.evicted:
        click.echo(f"edge-store: deleted for --disk-max: {evicted.path}", err=True)
    if report.over_disk_max is not None:
        click.echo(f"edge-store: {report.over_disk_max}", err=True)
    for store in report.unlisted:
        click.echo(f"edge-store: {store.store}: {store.error}", err=True)
        if store.hint:
            click.echo(f"  {store.hint}", err=True)
    for device_id, why in report.unseen.items():
        click.echo(f"edge-store: {device_id}: its folder was not looked into: {why}", err=True)
    for device_id in report.left:
        said = "is in its store no more: that pulls of it had failed is forgotten"
        click.echo(f"edge-store: {device_id} {said}", err=True)
    total = f"{len(report.boxes) - report.failed} of {len(report.boxes)} boxes are in {into}"
    if report.others:
        total += f"; {report.others} others were not asked for"
    click.echo(f"{total}; {report.unchanged} were unchanged, {report.seconds:.1f} s", err=True)


def _say_error(error: "EdgeStoreError") -> None:
    from edge_store.cli.main import report

    report(error)


@contextmanager
def _progress(
    line: Callable[["BoxReport"], str], *, all_lines: bool
) -> Iterator[tuple[Callable[[int], None], Callable[["BoxReport"], None]]]:
    """A bar on a terminal's standard error; the report lines go to standard output. Not
    ``all_lines``: a box that is unchanged has none.
    """
    from edge_store.fleet.report import How

    def write(report: "BoxReport") -> None:
        if all_lines or report.how is not How.UNCHANGED or report.not_forgotten or report.removed:
            click.echo(line(report))

    if not sys.stderr.isatty():
        yield (lambda _total: None), write
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("boxes", total=None)

        def report_one(report: "BoxReport") -> None:
            write(report)
            bar.advance(task)

        yield (lambda total: bar.update(task, total=total)), report_one


def _why_kept(report: "BoxReport") -> str:
    if report.is_continued:
        return "the older copy, which alone has what the box's retention has deleted since,"
    if report.kept and report.kept.suffix == ".damaged":
        return "the older copy was damaged, and"
    return "it does not continue the older copy, which"


def _line(report: "BoxReport") -> str:
    name = f"{report.device_id:<24}"
    if report.error is not None:
        return f"{name} failed  {report.code}: {report.error}{_next(report)}"
    line = f"{name} {report.how:<9} {_extent(report)}, {_bytes(report)}{report.seconds:.1f} s"
    if report.because is not None:
        line += f"; restored, as {report.because}"
    if report.kept is not None:
        line += f"; {_why_kept(report)} is kept as {report.kept}"
    if report.flags:
        line += f"; to be looked at: {', '.join(report.flags)}"
    if report.forgotten:
        line += f"; {report.forgotten} forgotten results deleted in older copies"
    for older in report.not_forgotten:
        line += f"; {older} cannot be written: what the box has forgotten may be in it"
        line += ", remove it when nothing of it is needed"
    if report.removed is not None:
        line += f"; removed {report.removed}, which an earlier pull had found damaged"
    for evicted in report.evicted:
        line += f"; deleted for --disk-max: {evicted.path}"
    return line + _next(report)


def _next(report: "BoxReport") -> str:
    return f"; asked for again at {time_text(report.next_at)}" if report.next_at else ""


def _json_line(report: "BoxReport") -> str:
    return json_line(report, sys.stdout)


def _bytes(report: "BoxReport") -> str:
    return f"{report.downloaded_bytes / 1e3:,.0f} kB, " if report.downloaded_bytes else ""


def _extent(report: "BoxReport") -> str:
    if report.newest_at is None:
        return "nothing was committed yet"
    return f"{report.results} results up to {time_text(report.newest_at)}"
