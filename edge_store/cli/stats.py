"""``edge-store stats``: what this box did, how its disk fills, and when it is full."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.logs_text import opened
from edge_store.cli.output import bytes_text, chosen_format, output_options, write_rows
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.target import chosen_database, last_boot_of, still_open, target_options
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.growth import Disk, Forecast
    from edge_store.query import QueryResult
    from edge_store.selection import Selection

__all__ = ["stats"]

BAR_CHARS = 12
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"
DAYS_SHOWN = 60
DAY_MS = 86_400_000
PLAIN = ("requests", "completed", "input_tokens", "output_tokens", "cached_tokens")


@click.command()
@click.option(
    "--by", type=click.Choice(["model", "hour", "day", "tenant", "status"]),
    help="A row for each; else one for all.",
)  # fmt: skip
@click.option(
    "--disk", is_flag=True,
    help="What each day takes of the file instead, and when the disk is full.",
)  # fmt: skip
@click.option("--forecast", is_flag=True, help="Only when the disk is full.")
@click.option(
    "--timeout", type=POSITIVE, default=300.0, show_default=True, help="Most seconds to run."
)
@selection_options()
@target_options
@output_options
def stats(  # noqa: PLR0913  (one parameter per option)
    db: Path | None,
    config: str | None,
    by: str | None,
    timeout: float,
    fmt: str | None,
    *,
    disk: bool,
    forecast: bool,
    **chosen: Any,
) -> None:
    """Count requests and tokens, times, JSON and completeness of a box, or how its disk fills.

    Times are percentiles by nearest rank. JSON: of how many choices it was asked, in how many it
    was there as asked, in how many it was extracted or repaired. `missing` were admitted and left
    nothing: told of the whole box, and by day, where nothing but a time is selected. In a copy
    whose newest boot had something in flight, the share of what is complete is unknown. A table has
    the most telling columns, with bars on a terminal; the other formats have all.

    \b
    Example:
      edge-store stats
      edge-store stats --by hour --since 1d
      edge-store stats --by model --status completed --csv
      edge-store stats --disk
    """
    from edge_store.lock import LastBoot
    from edge_store.stats import By, stats

    selection, form = selection_of(chosen), chosen_format(fmt, sys.stdout)
    if disk or forecast:
        if by is not None or selection.values or (disk and forecast):
            raise click.UsageError("--disk and --forecast are of the whole file, and go alone")
        _tell_disk(db, config, timeout, form, only_forecast=forecast)
        return
    what = By(by) if by else None
    look = partial(last_boot_of, chosen_database(db, config), config, is_copy=db is not None)
    with opened(db, config) as connection, interruptible():
        before, open_boots = look(), []

        def newest() -> LastBoot:
            boot, last = still_open(connection, before, look)
            if boot is not None and last is LastBoot.COPIED:
                open_boots.append(boot[0])
            return last

        found = stats(connection, selection, what, timeout_s=timeout, last_boot=newest)
        if form != "table":
            write_rows(found, form, sys.stdout)
        elif what is not None:
            write_rows(_compact(found), form, sys.stdout)
        else:
            days = _days(connection, selection, timeout) if sys.stdout.isatty() else []
            _write_one(found, days)
    for boot_no in open_boots:  # beside the rows, which a program reads
        click.echo(
            f"boot {boot_no} had not ended when this copy was made: what became of its last "
            "requests is unknown",
            err=form != "table",
        )


def _days(connection: Any, selection: "Selection", timeout: float) -> list[int]:
    """Requests of each of the newest days, those without any too."""
    from datetime import date, timedelta

    from edge_store.stats import By, counts_by

    counts = dict(counts_by(connection, selection, By.DAY, timeout_s=timeout))
    if not counts:
        return []
    last = date.fromisoformat(max(counts))
    length = min(DAYS_SHOWN, (last - date.fromisoformat(min(counts))).days + 1)
    shown = [last - timedelta(days=back) for back in reversed(range(length))]
    return [counts.get(day.isoformat(), 0) for day in shown]


def _write_one(found: "QueryResult", days: Sequence[int]) -> None:
    """One thing a line: there is a single row."""
    row = dict(zip(found.columns, found.rows[0], strict=True))
    for name in PLAIN:
        chart = ""
        if name == "requests" and len(days) > 1:
            chart = f"   {_sparkline(days)} by day"
        click.echo(f"{name.replace('_', ' '):<14} {_number(row[name])}{chart}")
    for name in ("latency_ms", "ttft_ms", "queue_ms"):
        marks = {share: row[f"{name}_p{share}"] for share in (50, 95, 99)}
        text = "  ".join(f"p{share} {_number(mark)}" for share, mark in marks.items())
        is_known = set(marks.values()) != {None}
        click.echo(f"{name.replace('_', ' '):<14} {text if is_known else '-'}")
    click.echo(f"{'JSON':<14} {_json_text(row)}")
    if row["admitted"] is not None:
        text = f"unknown of {row['admitted']} admitted, {row['missing']} known to be missing"
        if row["complete_percent"] is not None:
            share = f"{row['complete_percent']:.4f}".rstrip("0").rstrip(".")
            text = f"{share} % of {row['admitted']} admitted, {row['missing']} missing"
        click.echo(f"{'complete':<14} {text}")


def _compact(found: "QueryResult") -> "QueryResult":
    """What a terminal has room for, with bars."""
    from edge_store.query import QueryResult

    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    key = found.columns[0]
    has_bars, has_gaps = sys.stdout.isatty(), any(row["admitted"] is not None for row in rows)
    most = max((row["requests"] for row in rows), default=0)

    def line(row: "Mapping[str, Any]") -> "Iterator[Any]":
        yield row[key]
        yield row["requests"]
        if has_bars:
            yield _bar(row["requests"], most)
        yield row["requests"] - row["completed"]
        yield _number(row["input_tokens"])
        yield _number(row["output_tokens"])
        for mark in ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "ttft_ms_p95"):
            yield _number(row[mark])
        yield _number(row["queue_ms_p95"])
        yield _json_text(row)
        if has_gaps:
            yield row["missing"]
            yield row["complete_percent"]

    columns = [
        key, "requests", *(["chart"] if has_bars else []), "not completed", "in tokens",
        "out tokens", "p50 ms", "p95 ms", "p99 ms", "ttft p95", "queue p95", "JSON",
        *(["missing", "complete %"] if has_gaps else []),
    ]  # fmt: skip
    return QueryResult(
        columns=tuple(columns), rows=[tuple(line(row)) for row in rows], is_cut=False
    )


def _json_text(row: "Mapping[str, Any]") -> str:
    if not row["json_asked"]:
        return "-"
    valid, repaired = row["json_valid"], row["json_repaired"]
    return f"{valid}+{repaired} of {row['json_asked']}"


def _tell_disk(
    db: Path | None, config: str | None, timeout: float, form: str, *, only_forecast: bool
) -> None:
    from edge_store.clock import now_ms
    from edge_store.growth import disk_by_day, forecast
    from edge_store.query import QueryResult

    now = now_ms()
    with opened(db, config) as connection, interruptible():
        found = disk_by_day(connection, now, timeout_s=timeout)
    expected = forecast(found, now, None if db is not None else _room(config))
    if only_forecast:
        columns = tuple(expected.__struct_fields__)
        row = tuple(getattr(expected, name) for name in columns)
        one = QueryResult(columns=columns, rows=[row], is_cut=False)
        if form == "table":
            click.echo(_forecast_text(found, expected))
        else:
            write_rows(one, form, sys.stdout)
        return
    result = found.result
    if form == "table":
        most = max((row[2] for row in result.rows), default=0)
        bars = [(_bar(row[2], most),) if sys.stdout.isatty() else () for row in result.rows]
        lines = zip(result.rows, bars, strict=True)
        shown = [(day, count, bytes_text(size), *bar) for (day, count, size), bar in lines]
        columns = (*result.columns, "chart") if sys.stdout.isatty() else result.columns
        result = QueryResult(columns=columns, rows=shown, is_cut=False)
    write_rows(result, form, sys.stdout)
    click.echo(f"edge-store: {_forecast_text(found, expected)}", err=True)


def _room(config: str | None) -> int:
    """What the database may still take of its disk."""
    from edge_store.config import load
    from edge_store.recorder.disk import Disk

    settings = load(config).config
    return Disk(chosen_database(None, config), 0).free_bytes() - settings.store.disk_reserve_bytes


def _forecast_text(disk: "Disk", expected: "Forecast") -> str:
    is_known = expected.full_in_days is not None
    parts = [f"{'the disk is' if is_known else 'when the disk is full is'} {expected.message}"]
    parts.append(f"the file has {bytes_text(disk.file_bytes)}")
    if expected.bytes_per_day is not None:
        parts.append(f"{bytes_text(round(expected.bytes_per_day))} a day came in the newest week")
    if expected.room_bytes is not None:
        parts.append(f"there is room for {bytes_text(expected.room_bytes)} above the reserve")
    return "; ".join(parts)


def _number(value: float | None) -> str:
    """In as many digits as say something: 12, 3.4, 1.20M."""
    if value is None:
        return "-"
    for length, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= length:
            return f"{value / length:.2f}{unit}"
    return f"{value:.0f}" if value >= 100 or isinstance(value, int) else f"{value:.3g}"


def _bar(value: float, most: float) -> str:
    eighths = round(8 * BAR_CHARS * value / most) if most else 0
    if value and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _sparkline(values: Sequence[float]) -> str:
    most = max(values)
    top = len(LEVELS) - 1
    return "".join(LEVELS[round(top * value / most)] if value else " " for value in values)
