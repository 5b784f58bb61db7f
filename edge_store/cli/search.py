"""``edge-store logs search`` and ``reindex``: results by what is in their prompts and answers."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.logs_text import one_line
from edge_store.cli.output import bytes_text, chosen_format, harmless, output_options, write_rows
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.target import chosen_database, target_options
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.search.find import Answer, Found
    from edge_store.sqlite import Connection

__all__ = ["reindex", "search"]

LIMIT_MAX = 10_000
MARK = "**"  # around what was found, where nothing is bold


@click.command()
@click.argument("text", nargs=-1, required=True)
@target_options
@click.option(
    "--in", "place", type=click.Choice(["prompt", "answer", "all"]), default="all",
    show_default=True, help="Where to look. An answer has its reasoning and tool calls, too.",
)  # fmt: skip
@click.option("--newest", is_flag=True, help="By time, not by rank.")
@click.option(
    "--limit", "-n", type=click.IntRange(min=1, max=LIMIT_MAX), default=20, show_default=True,
    help="Most results to print.",
)  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=10.0, show_default=True, help="Most seconds to look."
)
@click.option(
    "--build", is_flag=True,
    help="With --db: make the index of that file first, beside it, or bring it up to date.",
)  # fmt: skip
@selection_options()
@output_options
def search(  # noqa: PLR0913  (one parameter per option)
    text: tuple[str, ...],
    db: Path | None,
    config: str | None,
    place: str,
    *,
    newest: bool,
    limit: int,
    timeout: float,
    build: bool,
    fmt: str | None,
    **selected: Any,
) -> None:
    """Find results by what is in their prompts and answers, in any letter case.

    All words have to be there, in any order. "Words in quotation marks" are a phrase, print* is
    what begins so; AND, OR, NOT and brackets join them. Whole words come first; then what has it
    within words, or as it is written, as code. Ranked are the newest 100 that match.

    \b
    Example:
      edge-store logs search printer floor 3
      edge-store logs search '"paper jam" AND (toner OR ink*) NOT test' --since 7d --in answer
      edge-store logs search 'std::vector<int>' --model qwen3-8b --newest --json
    """
    from edge_store.search.asked import parse
    from edge_store.search.file import index_of_copy, index_path
    from edge_store.search.find import Place, Wanted
    from edge_store.search.find import search as find
    from edge_store.sqlite import open_reader

    if build and db is None:
        raise click.UsageError("--build is for --db FILE: a box's daemon keeps its own index")
    wanted = Wanted(
        text=parse(" ".join(text)),
        selection=selection_of(selected),
        place=Place(place),
        limit=limit,
        is_newest=newest,
        timeout_s=timeout,
    )
    path = chosen_database(db, config)
    indexes = [index_of_copy(path), index_path(path)]
    with closing(open_reader(path)) as reader, interruptible(), _built(build, path, reader) as made:
        answer = find(reader, [made] if made else indexes, wanted)
    _write(answer, fmt)
    _tell(answer, path, is_copy=db is not None, timeout=timeout)


@click.command()
@target_options
def reindex(db: Path | None, config: str | None) -> None:
    """Make the search index anew.

    The daemon does it while it runs, beside requests, and results are found again as it comes to
    them. Without a daemon it is done at once; so is that of a file, with --db.

    \b
    Example:
      edge-store logs reindex
      edge-store logs reindex --db restored.db
    """
    from edge_store.search.file import drop_index, index_of_copy
    from edge_store.sqlite import open_reader

    path = chosen_database(db, config)
    if db is None:
        _reindex_box(path, config)
        return
    with closing(open_reader(path)) as reader:
        drop_index(index_of_copy(path))
        _make(index_of_copy(path), reader)


def _reindex_box(path: Path, named: str | None) -> None:
    from edge_store.cli.change import alone, ask
    from edge_store.config import load
    from edge_store.search.file import drop_index, index_path
    from edge_store.sqlite import open_reader

    config = load(named).config
    if (dropped := ask(path, "POST", "/search/drop")) is not None:
        what = "the daemon makes it anew: edge_store_search_lag_rows in its metrics says how far"
        if not config.search.enabled:
            what = "it is not made anew, as search.enabled = false"
        click.echo(f"{bytes_text(dropped)} of search index were dropped; {what}")
        return

    def work(_connection: "Connection") -> None:
        drop_index(index_path(path))
        with closing(open_reader(path)) as reader:
            _make(index_path(path), reader)

    alone(config, work)


def _make(index: Path, reader: "Connection") -> None:
    from edge_store.search.file import index_bytes
    from edge_store.search.index import catch_up

    with _progress() as say:
        catch_up(index, reader, say).close()
    click.echo(f"{index}: {bytes_text(index_bytes(index))}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """What is called with how far it is, and the whole. Only a terminal sees it."""
    is_seen = sys.stderr.isatty()

    def say(at: int, of: int) -> None:
        if is_seen:
            click.echo(f"\rindexing: {100 * at // max(1, of)} %", nl=False, err=True)

    yield say
    if is_seen:
        click.echo(err=True)


@contextmanager
def _built(is_wanted: bool, path: Path, reader: "Connection") -> Iterator[Path | None]:  # noqa: FBT001  (a flag of the command)
    """The index of a copy, beside it; where nobody may write there, in a folder that goes again."""
    from edge_store.errors import StoreError
    from edge_store.search.file import index_of_copy
    from edge_store.search.index import catch_up

    if not is_wanted:
        yield None
        return
    try:
        with _progress() as say:
            catch_up(index_of_copy(path), reader, say).close()
    except (OSError, StoreError) as exc:
        click.echo(f"edge-store: no index beside {path} ({exc}): a temporary one is made", err=True)
    else:
        yield index_of_copy(path)
        return
    with tempfile.TemporaryDirectory(prefix="edge-store-search-") as folder:
        index = Path(folder) / "search.db"
        with _progress() as say:
            catch_up(index, reader, say).close()
        yield index


def _write(answer: "Answer", fmt: str | None) -> None:
    from edge_store.query import QueryResult
    from edge_store.search.snippets import marked

    if fmt is None and sys.stdout.isatty():
        if not answer.found:
            click.echo("edge-store: nothing was found", err=True)
        for found in answer.found:
            _write_one(found)
        return
    columns = ("created_at", "id", "model", "status", "tenant", "place", "score", "snippet")
    rows = [
        (
            found.created_at, found.id, found.model, found.status, found.tenant,
            found.place.value, found.score, marked(found.snippet, MARK, MARK),
        )
        for found in answer.found
    ]  # fmt: skip
    result = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)


def _write_one(found: "Found") -> None:
    """Two lines for a person, with what was found in bold."""
    from edge_store.search.snippets import Snippet, marked

    text = harmless(found.snippet.text)
    bold, plain = "\x1b[1m", "\x1b[0m"
    head = (
        found.created_at,
        found.id,
        one_line(found.model),
        found.status,
        f"in the {found.place}",
    )
    click.echo(click.style("  ".join(head), dim=True))
    click.echo(f"  {marked(Snippet(text, found.snippet.spans), bold, plain)}")


def _tell(answer: "Answer", path: Path, *, is_copy: bool, timeout: float) -> None:
    """What the rows do not say, on standard error."""
    if not answer.has_index:
        more = "--build makes one" if is_copy else "the daemon makes it, if search.enabled = true"
        click.echo(
            f"edge-store: {path} has no search index: its texts were read through; {more}", err=True
        )
    if answer.unindexed:
        click.echo(
            f"edge-store: the newest {answer.unindexed} results are not in the index yet, and were "
            "not searched",
            err=True,
        )
    if answer.is_cut:
        click.echo(
            "edge-store: more results may have it within words: as some have it as a word, only "
            "the newest of those were looked at",
            err=True,
        )
    if answer.is_out_of_time:
        click.echo(
            f"edge-store: not all was searched within {timeout:g} s; narrow it, or raise --timeout",
            err=True,
        )
