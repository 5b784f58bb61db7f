"""The options that say how rows are written. A command takes ``fmt`` alone; what the others say is
kept with the command's context, for ``write_rows``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from edge_store.cli.values import WRITTEN_FILE
from edge_store.result import Record

__all__ = ["HELD", "Details", "chosen_format", "details", "output_options"]

F = TypeVar("F", bound=Callable[..., Any])
KEPT = "edge_store.cli.output"  # in the context's meta
HELD = frozenset({"table", "vertical", "fmt"})  # for people, who read a few
JSON = frozenset({"nl", "json"})
# Those of tabulate that are safe, written out: it takes 60 ms to import.
TABULATE = (
    "asciidoc", "colon_grid", "double_grid", "double_outline", "fancy_grid", "fancy_outline",
    "github", "grid", "heavy_grid", "heavy_outline", "html", "jira", "latex", "latex_booktabs",
    "latex_longtable", "latex_raw", "mediawiki", "mixed_grid", "mixed_outline", "moinmoin",
    "orgtbl", "outline",
    "pipe", "plain", "presto", "pretty", "psql", "rounded_grid", "rounded_outline", "rst",
    "simple", "simple_grid", "simple_outline", "textile", "youtrack",
)  # fmt: skip
FORMATS = {
    "nl": "One JSON object per line; the default when piped.",
    "csv": 'Comma-separated values with a header; NULL is empty, an empty text "".',
    "tsv": "The same with tabs.",
    "table": "A table; the default on a terminal. Long values are cut.",
    "vertical": "A line for each value, whole.",
    "json": "One JSON array of objects.",
}


class Details(Record, frozen=True, kw_only=True):
    """What the options say beside ``fmt``, by their names."""

    arrays: bool = False
    json_cols: bool = False
    no_headers: bool = False
    tabulate: str | None = None
    raw: str | None = None
    parquet: Path | None = None


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    context.meta.setdefault(KEPT, {})[option.name] = value


def _choose(context: click.Context, option: click.Parameter, is_given: bool) -> None:  # noqa: FBT001  (click's)
    """Set ``fmt``. Of options with one destination the last would win, and nobody be told."""
    name = option.opts[0].removeprefix("--")
    chosen = context.params.setdefault("fmt", None)
    if is_given and chosen is not None:
        raise click.UsageError(f"give one of --{chosen}, --{name}")
    if is_given:
        context.params["fmt"] = name


def output_options(command: F) -> F:
    """Add ``--nl --csv --tsv --table --vertical --json``, which set ``fmt``, and what goes with
    them.
    """
    for name, text in FORMATS.items():
        command = click.option(
            f"--{name}", f"as_{name}", is_flag=True, callback=_choose, expose_value=False, help=text
        )(command)
    for option in (
        click.option(
            "--fmt", "tabulate", metavar="NAME", type=click.Choice(TABULATE),
            callback=_keep, expose_value=False,
            help="A table as tabulate makes it: github, psql, html, latex, rst, …",
        ),
        click.option(
            "--raw", metavar="COL", callback=_keep, expose_value=False,
            help="This column alone, as it is: a line for each text, BLOBs byte by byte.",
        ),
        click.option(
            "--parquet", metavar="FILE", type=WRITTEN_FILE,
            callback=_keep, expose_value=False, help="Into a Parquet file (zstd).",
        ),
        click.option(
            "--arrays", is_flag=True, callback=_keep, expose_value=False,
            help="With --nl or --json: a row is an array.",
        ),
        click.option(
            "--json-cols", is_flag=True, callback=_keep, expose_value=False,
            help="With --nl or --json: texts that are JSON objects or arrays are written as such.",
        ),
        click.option(
            "--no-headers", is_flag=True, callback=_keep, expose_value=False,
            help="Without the line of column names.",
        ),
    ):  # fmt: skip
        command = option(command)
    parameters = command.__click_params__  # type: ignore[attr-defined]  # click's own list
    count = len(FORMATS) + 6
    parameters[-count:] = parameters[-count:][::-1]  # click shows the last first
    return command


def details() -> Details:
    """What the command at hand was told."""
    context = click.get_current_context(silent=True)
    return Details(**context.meta.get(KEPT, {})) if context else Details()


def chosen_format(fmt: str | None, stream: TextIO) -> str:
    """The format asked for, or the one that fits the stream.

    Raises:
        UsageError: two are asked for, or something does not go with it.
    """
    told = details()
    asked = {
        name: name
        for name, value in (
            (fmt, fmt), ("fmt", told.tabulate), ("raw", told.raw), ("parquet", told.parquet),
        )
        if name is not None and value is not None
    }  # fmt: skip
    if len(asked) > 1:
        raise click.UsageError(f"give one of {', '.join(f'--{name}' for name in asked)}")
    for name, is_told in (("--arrays", told.arrays), ("--json-cols", told.json_cols)):
        if is_told and not set(asked) <= JSON:
            raise click.UsageError(f"{name} goes with --nl or --json")
    if asked:
        return next(iter(asked))
    is_for_people = stream.isatty() and not (told.arrays or told.json_cols)
    return "table" if is_for_people else "nl"
