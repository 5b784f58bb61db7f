"""What the commands of ``edge-store bench`` share."""

import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_store.bench.figures import Figure

__all__ = [
    "AT_LEAST_ONE", "dir_option", "given_arguments", "measure", "model_option", "pairs_option",
    "rows_option", "say", "sglang_option",
]  # fmt: skip

AT_LEAST_ONE = click.IntRange(min=1)

pairs_option = click.option(
    "--pairs", type=AT_LEAST_ONE, default=12, show_default=True,
    help="Interleaved pairs of slices.",
)  # fmt: skip
rows_option = click.option(
    "--rows", type=AT_LEAST_ONE, default=4096, show_default=True,
    help="Rows or requests in a slice.",
)  # fmt: skip
model_option = click.option("--model", help="Folder of the model that SGLang loads.")
sglang_option = click.option(
    "--sglang", "arguments", multiple=True, metavar="KEY=VALUE",
    help="An argument of SGLang's ServerArgs, as mem_fraction_static=0.3; the value is JSON, else "
    "text. Repeatable.",
)  # fmt: skip
dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder on the disk to measure; a temporary one in it is used and removed.",
)  # fmt: skip


def given_arguments(model: str | None, texts: Sequence[str]) -> dict[str, Any]:
    """SGLang's arguments, as ``model_option`` and ``sglang_option`` say them."""
    given = dict(map(_argument, texts))
    if model is not None:
        given["model_path"] = model
    if given and "model_path" not in given:
        raise click.UsageError("--model is missing: the folder of the model that SGLang loads")
    return given


def _argument(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise click.UsageError(f"--sglang {text!r} is not KEY=VALUE")
    try:
        return key.replace("-", "_"), json.loads(value)
    except ValueError:
        return key.replace("-", "_"), value


def say(text: str) -> None:
    """How far it is, on standard error."""
    click.echo(text, err=True)


def measure(
    directory: Path | None, measured: Callable[[Path], "Coroutine[Any, Any, Sequence[Figure]]"]
) -> None:
    """Run it in a temporary folder, print its figures, and exit 1 if one misses its bound."""
    import asyncio
    import tempfile

    import uvloop

    from edge_store.cli.output import write_rows
    from edge_store.query import QueryResult

    with (
        tempfile.TemporaryDirectory(prefix="edge-store-bench-", dir=directory) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(measured(Path(name)))
    result = QueryResult(
        columns=("figure", "median", "unit", "bound", "holds"),
        rows=[(f.name, f.shown, f.unit, f.bound, "yes" if f.holds else "NO") for f in figures],
        is_cut=False,
    )
    write_rows(result, "table", sys.stdout)
    if not all(figure.holds for figure in figures):
        sys.exit(1)
