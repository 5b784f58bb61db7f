"""``edge-store export``: results for other programs, from a live box or any file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.target import chosen_database, target_options

if TYPE_CHECKING:
    from edge_store.exports.kinds import Job
    from edge_store.exports.mark import Mark
    from edge_store.exports.run import Progress

__all__ = ["export", "progress_bar"]

TO = ("jsonl", "csv", "parquet", "openai", "sharegpt", "otlp")
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"  # OpenTelemetry's own: name=value,name=value


@click.command()
@click.argument("target", metavar="FILE|FOLDER|URL")
@click.option(
    "--to", "kind", type=click.Choice(TO), default="jsonl", show_default=True, help="What to write."
)
@target_options
@selection_options()
@click.option("--bodies", is_flag=True, help="With the bytes of requests and answers; otlp: texts.")
@click.option(
    "--after", type=click.IntRange(min=0), metavar="SEQ", help="Only results after that one."
)
@click.option("--resume", is_flag=True, help="Go on where the export to this target ended.")
@click.option("--force", is_flag=True, help="Begin anew over what is there.")
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="FILE",
    help="Where it is noted how far it came.  [default: the target's name and .state.json; of a "
    "URL none]",
)  # fmt: skip
@click.option(
    "--headers-file", type=click.Path(path_type=Path), metavar="FILE",
    help=f"Lines of `Name: value` for a URL, beside {HEADERS}.",
)  # fmt: skip
def export(  # noqa: PLR0913  (one parameter per option)
    target: str,
    kind: str,
    db: Path | None,
    config: str | None,
    after: int | None,
    state: Path | None,
    headers_file: Path | None,
    *,
    bodies: bool,
    resume: bool,
    force: bool,
    **chosen: Any,
) -> None:
    """Write results for other programs: jsonl (all of a result: `import` takes it back), csv,
    parquet (a folder by date), openai and sharegpt (chats to train on), otlp (spans, to a URL).

    It reads page by page while the daemon runs, ends at the newest result of now, and holds no more
    than a page. What a kill leaves is completed by --resume, without doubles; later --resume adds
    what is new. FILE may be - for standard output.

    \b
    Example:
      edge-store export --to jsonl --bodies all.jsonl
      edge-store export --to parquet --since 2026-11-01 lake/ --resume
      edge-store export --to openai --model qwen --json-state valid chats.jsonl
      edge-store export --to otlp http://localhost:4318 --state otlp.json --resume
    """
    from edge_store.exports.files import STDOUT
    from edge_store.exports.kinds import Job
    from edge_store.exports.mark import mark_beside
    from edge_store.exports.pages import Source
    from edge_store.exports.run import begun
    from edge_store.exports.run import export as carry_out

    if resume and (force or after is not None):
        raise click.UsageError("--resume goes on: give it without --force and --after")
    is_url = "://" in target
    if is_url is not (kind == "otlp"):
        raise click.UsageError("--to otlp takes a URL, as http://localhost:4318; the others a path")
    if kind == "parquet" and target == STDOUT:
        raise click.UsageError("--to parquet writes a folder: name one, - is standard output")
    if state is None and not is_url and target != STDOUT:
        state = mark_beside(Path(target))
    if state is not None:
        state = state.resolve()  # a symbolic link would be replaced by what it leads to
        if not is_url and state == Path(target).resolve():
            raise click.UsageError("--state names the target itself: give it a file of its own")
    if resume and state is None:
        raise click.UsageError("--resume takes --state FILE here: nothing lies beside it")
    headers = _headers(headers_file) if is_url else {}
    job = Job(kind, target, selection_of(chosen), bodies, force, headers)
    came = Came()
    with (
        _telling_how_far(job, state, came),
        interruptible(),
        Source(chosen_database(db, config)) as source,
    ):
        mark = begun(job, source, state, resume=resume, after=after or 0)
        came.to(mark.seq, mark.rows)
        with progress_bar(f"{kind} up to seq {source.until}", source.until - mark.seq) as progress:

            def written(seq: int, rows: int) -> None:
                came.to(seq, rows)
                progress(seq - mark.seq, rows)

            ended = carry_out(job, source, mark, state, written)
    _tell(mark, ended, target)


class Came:
    """How far an export has come: None before it begins."""

    seq: int | None = None
    rows: int = 0

    def to(self, seq: int, rows: int) -> None:
        """So far."""
        self.seq, self.rows = seq, rows


@contextmanager
def _telling_how_far(job: "Job", state: Path | None, came: Came) -> "Iterator[None]":
    """Of an export that is cut by Ctrl-C or SIGTERM: by its mark, where it has one."""
    from edge_store.exports.files import STDOUT
    from edge_store.exports.mark import read_mark

    try:
        yield
    except KeyboardInterrupt:
        if came.seq is None:
            click.echo("edge-store: cut: nothing was written", err=True)
            raise
        seq, rows = came.seq, came.rows
        hint = f"--after {seq} goes on from there"
        if job.target == STDOUT:
            hint += f"; what stands behind seq {seq} is to be cut off first"
        if state is not None:
            mark = read_mark(state)
            seq, rows = (mark.seq, mark.rows) if mark else (0, 0)
            hint = f"given again with --resume it goes on from there, by {state}"
        click.echo(f"edge-store: cut: {rows} results to {job.target}, up to seq {seq}", err=True)
        click.echo(f"  {hint}", err=True)
        raise


def _tell(before: "Mark", after: "Mark", target: str) -> None:
    """On standard error: standard output may be the export."""
    click.echo(
        f"edge-store: {after.rows - before.rows} results to {target}, up to seq {after.seq}",
        err=True,
    )
    for why, count in sorted(after.skipped.items(), key=lambda each: -each[1]):
        new = count - before.skipped.get(why, 0)
        if new:
            click.echo(f"edge-store: {new} skipped: {why}", err=True)


def _headers(path: Path | None) -> dict[str, str]:
    """From the environment and the file: on the command line others would see them.

    Raises:
        UsageError: a line is no header.
    """
    from urllib.parse import unquote

    named = [part.partition("=") for part in os.environ.get(HEADERS, "").split(",") if part.strip()]
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        named += [line.partition(":") for line in lines if line.strip()]
    found = {}
    for name, separator, value in named:
        if not separator:
            raise click.UsageError(
                f"a header is not like name=value, in a file name: value: {name!r}"
            )
        found[name.strip()] = unquote(value.strip()) if separator == "=" else value.strip()
    return found


@contextmanager
def progress_bar(what: str, total: int | None) -> "Iterator[Progress]":
    """On a terminal, on standard error: how much of ``total`` is done, and how many rows."""
    if not sys.stderr.isatty():
        yield lambda _done, _rows: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
             TextColumn("{task.fields[rows]} rows"), TimeRemainingColumn())  # fmt: skip
    with Progress(*shown, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rows=0)
        yield lambda done, rows: bar.update(task, completed=done, rows=rows)
