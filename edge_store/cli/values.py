"""The values of the :NAMEs in SQL, as ``edge-store query`` and ``fleet query`` take them; spans.

SQLite compares a number with a text by their kinds alone where neither side is a column, so what is
written as a number is bound as one. What has a leading zero or an exponent may be an id: a text.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from edge_store import exits
from edge_store.sqlitefiles import require_no_database, require_no_part

__all__ = [
    "AT_LEAST_ZERO", "LABEL_NAME", "MADE_FILE", "MOMENT", "POSITIVE", "ROWS_MAX", "SIZE", "SPAN",
    "SPANS", "WRITTEN_FILE", "Bounds", "Finite", "bound", "bound_options", "duration_s",
    "group_option", "tell_unused", "value_options",
]  # fmt: skip

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
Given = Iterable[tuple[str, str]]

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
BROKEN = re.compile(r"-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,15}", re.ASCII)
DURATION = re.compile(r"([0-9]{1,6})(s|m|min|h|d)", re.ASCII)
UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SPANS = "90s, 30min (or 30m), 2h or 1d"
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
DAY_CHARS = 10
SIZE_TEXT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(|k|M|G|T)(i?)B", re.ASCII)
POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
LABEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)  # as fleet.toml takes it
INT64 = range(-(2**63), 2**63)
ROWS_MAX = 10_000_000
ROWS_HELD = 10_000


class Finite(click.FloatRange):
    """A number that is one: neither ``nan``, which is in every range, nor ``inf``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class OurFile(click.Path):
    """A file that the command writes, and that is none of SQLite's. ``is_replaced``: over one that
    is there; else the command refuses that.
    """

    def __init__(self, *, is_replaced: bool) -> None:
        super().__init__(path_type=Path, dir_okay=not is_replaced)
        self._is_replaced = is_replaced

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises ``InvalidRequest``."""
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        (require_no_database if self._is_replaced else require_no_part)(path)
        return path


class Size(click.ParamType[int]):
    """Bytes, with their unit: 500MB, 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = SIZE_TEXT.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is not like 500MB or 2GiB.", param, ctx)
        unit: int = (1024 if found[3] else 1000) ** POWERS[found[2]]
        return round(float(found[1]) * unit)


class Span(click.ParamType[float]):
    """Seconds, as in 90s, 30min (or 30m), 2h or 1d."""

    name = "span"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        seconds = duration_s(value)
        if seconds is None:
            self.fail(f"{value!r} is not like {SPANS}.", param, ctx)
        return seconds


class Moment(click.ParamType[int]):
    """UTC milliseconds: a time ago, as a span; a day, from its beginning in UTC; or a time with its
    zone: without one it would be taken for another zone's.
    """

    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        ago_s = duration_s(value.removesuffix("ago").rstrip())
        if ago_s is not None:
            return time.time_ns() // 1_000_000 - round(ago_s * 1000)
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is None and DAY.match(value) and not _is_day(value[:DAY_CHARS]):
            self.fail(f"the calendar has no {value[:DAY_CHARS]}", param, ctx)
        if found is None or (found.tzinfo is None and not DAY.fullmatch(value)):
            self.fail(
                f"{value!r} is not like 2026-01-31, 2026-01-31T08:00Z, nor a time ago: {SPANS}",
                param,
                ctx,
            )
        return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _is_day(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


SIZE, SPAN, MOMENT = Size(), Span(), Moment()
MADE_FILE, WRITTEN_FILE = OurFile(is_replaced=False), OurFile(is_replaced=True)
POSITIVE = Finite(min=0, min_open=True)
AT_LEAST_ZERO = Finite(min=0)


class Bounds(NamedTuple):
    """How much of an answer is wanted, for how long."""

    limit: int | None
    rows_max: int | None
    timeout_s: float
    fail_empty: bool

    def rows(self, *, held: bool) -> int:
        """Most rows to take. ``held``: they are held in memory, so not millions unless asked."""
        most = self.rows_max or max(ROWS_HELD if held else ROWS_MAX, self.limit or 0)
        return min(self.limit or ROWS_MAX, most)

    def end(self, count: int, *, is_cut: bool) -> None:
        """Say that an answer of ``count`` rows is cut where nobody asked for so few, and exit as
        ``--fail-empty`` says.
        """
        if is_cut and (self.limit is None or count < self.limit):
            click.echo(
                f"edge-store: only the first {count} rows: narrow it, or raise --max-rows",
                err=True,
            )
        if self.fail_empty and not count:
            sys.exit(exits.EMPTY)


def bound_options(timeout_s: float) -> Callable[[FunctionT], FunctionT]:
    """``--limit``, ``--max-rows``, ``--timeout`` and ``--fail-empty``, as ``bounds``."""

    def add(function: FunctionT) -> FunctionT:
        @wraps(function)
        def bounded(
            *args: Any, limit: int | None, max_rows: int | None, timeout: float, fail_empty: bool,
            **given: Any,
        ) -> Any:  # fmt: skip
            bounds = Bounds(limit, max_rows, timeout, fail_empty)
            return function(*args, bounds=bounds, **given)

        command: Any = bounded
        for option in (
            click.option(
                "--fail-empty", is_flag=True, help=f"Exit with {exits.EMPTY} when there is no row."
            ),
            click.option(
                "--timeout", type=POSITIVE, default=timeout_s, show_default=True,
                help="Most seconds to run.",
            ),
            click.option(
                "--max-rows", type=click.IntRange(1, ROWS_MAX),
                help=f"Most rows; more are left out, and it is said.  [default: {ROWS_HELD} of "
                f"what is held in memory, as tables are; else {ROWS_MAX}]",
            ),
            click.option(
                "--limit", "-n", type=click.IntRange(1, ROWS_MAX), help="So many rows suffice."
            ),
        ):  # fmt: skip
            command = option(command)
        return command  # type: ignore[no-any-return]  # click's decorators keep the function

    return add


def value_options(function: FunctionT) -> FunctionT:
    """``-p NAME VALUE`` and ``--text NAME VALUE``."""
    for option in (
        click.option(
            "--text", "texts", type=(str, str), multiple=True, metavar="NAME VALUE",
            help="A value for :NAME that is a text, digits too.",
        ),
        click.option(
            "-p", "--param", "params", type=(str, str), multiple=True, metavar="NAME VALUE",
            help="A value for :NAME in the SQL: a number if it is written as one (17, -0.5), else "
            "a text.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def group_option(function: FunctionT) -> FunctionT:
    """``--group NAME=VALUE``, as a dict."""
    return click.option(
        "--group", multiple=True, metavar="NAME=VALUE", callback=_group,
        help="Only boxes with this label in fleet.toml; with all, where it is given again.",
    )(function)  # fmt: skip


def _group(_ctx: click.Context, option: click.Parameter, given: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, _, found[name] = text.partition("=")
        if not found[name] or not LABEL_NAME.fullmatch(name):
            raise click.BadParameter(f"{text!r} is not like site=berlin", param=option)
    return found


def bound(params: Given, texts: Given) -> dict[str, str | int | float]:
    """Each name with its value.

    Raises:
        BadParameter: one is not UTF-8.
    """
    params, texts = list(params), list(texts)
    for name, text in (*params, *texts):
        try:
            f"{name}{text}".encode()
        except UnicodeEncodeError:
            shown = ascii(text.encode(errors="surrogateescape"))[1:]
            raise click.BadParameter(f"the value of {name!a} is not UTF-8: {shown}") from None
    return {**{name: _value(text) for name, text in params}, **dict(texts)}


def tell_unused(names: Iterable[str]) -> None:
    """Name the values that the SQL does not ask for: mistyped, as a rule."""
    for name in names:
        click.echo(f"edge-store: -p {name} is not used: the SQL has no :{name}", err=True)


def _value(text: str) -> str | int | float:
    if WHOLE.fullmatch(text) and (number := int(text)) in INT64:
        return number
    return float(text) if BROKEN.fullmatch(text) else text


def duration_s(text: str) -> float | None:
    """The seconds of 90s, 30min (or 30m), 2h or 1d."""
    found = DURATION.fullmatch(text)
    return float(found[1]) * UNITS_S[found[2]] if found else None
