"""``edge-store query``: read-only SQL on the live database, or on any restored or pulled files."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.archive import beside_archive
from edge_store.cli.interrupt import interruptible, not_for_ever
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.output.options import HELD
from edge_store.cli.query_saved import ls, rm, save
from edge_store.cli.query_words import complete_statement
from edge_store.cli.selecting import selection_of, selection_options
from edge_store.cli.values import Bounds, bound, bound_options, tell_unused, value_options

if TYPE_CHECKING:
    from edge_store.query import Answer
    from edge_store.selection import Selection
    from edge_store.sqlite import Connection

__all__ = ["query"]

STDIN = "-"
NEWEST = 20  # results
PLACES = frozenset({"--config", "--db"})


class QueryGroup(click.Group):
    """A command that takes SQL, or one of a few words that no SQL begins with."""

    allow_interspersed_args = True
    allow_extra_args = False

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        """That of the subcommand, where the first argument but for the place names one."""
        args = self._word_first(args)
        if args and args[0] in self.commands:
            name = f"{info_name} {args[0]}"
            return self.commands[args[0]].make_context(name, args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say what is wrong where the shell has taken the SQL apart."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as exc:
            if "extra argument" not in exc.message:
                raise
            hint = "put all of the SQL between quotation marks"
            raise click.UsageError(f"{exc.message}: {hint}", ctx) from None

    def _word_first(self, args: list[str]) -> list[str]:
        """As `ls --config BOX`, where `--config BOX ls` was written."""
        at = 0
        while at < len(args) and args[at].partition("=")[0] in PLACES:
            at += 1 if "=" in args[at] else 2
        if at < len(args) and args[at] in self.commands:
            return [args[at], *args[:at], *args[at + 1 :]]
        return args


@click.group(
    cls=QueryGroup, invoke_without_command=True, no_args_is_help=False, subcommand_metavar=""
)
@click.argument(
    "statement", metavar="[SQL|@NAME|-]", required=False, shell_complete=complete_statement
)
@click.option(
    "--db", "dbs", type=click.Path(path_type=Path), multiple=True,
    help="A database file, as restored or pulled. Given again, boxes are asked as one, with a "
    "column device_id.",
)  # fmt: skip
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@value_options
@selection_options("since", "until", "model", "status")
@bound_options(timeout_s=10.0)
@click.option("--explain", is_flag=True, help="How SQLite would answer, instead of the answer.")
@click.option(
    "--with-archive", is_flag=True, help="Also what retention has archived: docs/retention.md."
)
@output_options
def query(  # noqa: PLR0913  (one parameter per option)
    statement: str | None,
    dbs: tuple[Path, ...],
    config: str | None,
    params: tuple[tuple[str, str], ...],
    texts: tuple[tuple[str, str], ...],
    bounds: Bounds,
    fmt: str | None,
    *,
    explain: bool,
    with_archive: bool,
    **given: Any,
) -> None:
    """Run one read-only SQL statement; - reads it, @NAME is a saved one. Without: the newest
    20 results, or --limit.

    The views are the query API: generations, bodies, usage_by_hour, usage_by_day, completeness,
    completeness_by_day, v_openai, v_otel, sglang_inference_results. It works while the daemon runs.
    --since, --until, --model and --status narrow results and all that belongs to them. Exits 1 on
    an error, 2 on wrong usage.

    \b
    Example:
      edge-store query "select status, count(*) from results group by 1"
      edge-store query --since 2h --status failed --vertical
      edge-store query "select * from generations where id = :id" -p id 0190…
      edge-store query "select id from results where latency_ms / 1000 > :s" -p s 1.5
      edge-store query "select id from results where metadata->>'order' = :o" --text o 17
      echo "select * from usage_by_day" | edge-store query - --csv
      edge-store query save slow "select id, latency_ms from results where latency_ms > :ms"
      edge-store query @slow -p ms 5000 --json
    """
    chosen = chosen_format(fmt, sys.stdout)
    files, configured = _files(dbs, config)
    selection = selection_of(given)
    values = bound(params, texts)
    if with_archive and dbs:
        raise click.UsageError("--with-archive is for a box's own database: give --config")
    with interruptible(), ExitStack() as stack:
        text = _statement(statement, files, configured)
        if statement is None:
            values = {**values, "newest": bounds.limit or NEWEST}
        reading = (
            beside_archive(config, selection, text)
            if with_archive
            else _reading(files, text, values, selection)
        )
        connection = stack.enter_context(reading)
        if chosen == "parquet" and not with_archive:  # which goes through the rows twice
            _hold(connection)
        answer = stack.enter_context(_asked(connection, text, values, bounds, chosen, explain))
        answer.pausing = lambda: not_for_ever(answer.release)
        answer.ends_reading = chosen != "parquet"  # as a pager may be open for hours
        if explain and fmt is None:
            _write_plan(answer)
        else:
            write_rows(answer, chosen, sys.stdout)
        unused, count, is_cut = answer.unused, answer.count, answer.is_cut
    tell_unused(unused)
    bounds.end(count, is_cut=is_cut)


query.add_command(save)
query.add_command(ls)
query.add_command(rm)


def _files(dbs: tuple[Path, ...], config: str | None) -> tuple[tuple[Path, ...], Mapping[str, str]]:
    """The databases, and the queries of the configuration where it names them."""
    if dbs and config is not None:
        raise click.UsageError("give --db or --config, not both: each names a database")
    if dbs:
        return dbs, {}
    from edge_store.config import load

    settings = load(config).config
    return (Path(settings.store.path),), settings.queries


def _statement(given: str | None, files: tuple[Path, ...], configured: Mapping[str, str]) -> str:
    """The SQL that is meant; where none is given, for ``:newest`` results."""
    if given is None:
        from edge_store.sql import sql

        return sql("select_newest")
    if given == STDIN:
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    from edge_store.saved import named_query
    from edge_store.sqlite import open_reader

    connection = open_reader(files[0])
    try:
        return named_query(given[1:], configured, connection)
    finally:
        connection.close()


@contextmanager
def _reading(
    files: tuple[Path, ...], statement: str, values: Mapping[str, Any], selection: "Selection"
) -> Iterator["Connection"]:
    """What the statement is asked of: the file, or the union of several; of the chosen results."""
    if len(files) == 1:
        from edge_store.sqlite import open_reader

        connection = open_reader(files[0])
        try:
            if selection.values:
                from edge_store.shadows import narrowed

                with narrowed(connection, selection, statement):
                    yield connection
            else:
                yield connection
        finally:
            connection.close()
        return
    from edge_store.fleet.query import united
    from edge_store.sqlite import open_reader

    for path in files:  # with what to do about one that is not there
        open_reader(path).close()
    with united(files, statement, values, selection=selection, any_name=True) as union:
        for each in union.unread:
            click.echo(f"edge-store: {each.error}", err=True)
        if union.unread:
            sys.exit(1)
        yield union.connection


def _hold(connection: "Connection") -> None:
    from edge_store.sql import sql

    connection.execute(sql("begin_reading"))


def _asked(
    connection: "Connection", statement: str, values: Mapping[str, Any], bounds: Bounds,
    chosen: str, is_explained: bool,  # noqa: FBT001
) -> Any:  # fmt: skip
    from edge_store.query import answering

    return answering(
        connection,
        f"EXPLAIN QUERY PLAN {statement}" if is_explained else statement,
        values,
        rows_max=bounds.rows(held=chosen in HELD),
        timeout_s=bounds.timeout_s,
    )


def _write_plan(answer: "Answer") -> None:
    """The plan as a tree: what is scanned, and what is found by an index."""
    rows = [row for batch in answer.batches() for row in batch]
    depths = {0: 0}
    for number, parent, _, detail in rows:
        depths[number] = depths.get(parent, 0) + 1
        click.echo(f"{'  ' * (depths[number] - 1)}{detail}")
