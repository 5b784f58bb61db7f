"""``edge-store query save|ls|rm``: queries by name."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from edge_store.cli.output import chosen_format, output_options, time_text, write_rows

__all__ = ["ls", "rm", "save"]

VALUE = re.compile(r":(\w+)")


@click.command()
@click.argument("name")
@click.argument("statement", metavar="SQL")
@click.option("--replace", is_flag=True, help="Another query may have the name.")
@click.option("--config", help="The box's edge-store.toml, or its folder.")
def save(name: str, statement: str, config: str | None, *, replace: bool) -> None:
    """Keep a query in the database as @NAME; - reads the SQL. It goes where the replica goes.

    [queries] in edge-store.toml names queries too; of two with one name that one counts.

    \b
    Example:
      edge-store query save slow "select id, latency_ms from results where latency_ms > :ms"
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.config.sections import QUERY_NAME
    from edge_store.errors import InvalidRequest
    from edge_store.query import run_query
    from edge_store.saved import SaveQuery
    from edge_store.sqlite import open_reader

    name = name.removeprefix("@")
    if not QUERY_NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is not like slow or slow-2", param_hint="NAME")
    settings = load(config).config
    text = sys.stdin.read() if statement == "-" else statement
    if settings.queries.get(name, text) != text:
        raise InvalidRequest(
            f"edge-store.toml has another query @{name}, which counts", hint="choose another name"
        )
    connection = open_reader(Path(settings.store.path))
    try:
        values = dict.fromkeys(VALUE.findall(text))
        run_query(connection, f"EXPLAIN {text}", values, rows_max=1, timeout_s=10)
    finally:
        connection.close()

    def said(is_replaced: Any) -> None:
        click.echo(f"@{name} is {'replaced' if is_replaced else 'saved'}")

    change(settings, "queries.save", SaveQuery(name=name, sql=text, replaces=replace), said=said)


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the queries that have a name: those of edge-store.toml and those saved.

    \b
    Example:
      edge-store query ls
    """
    from edge_store.config import load
    from edge_store.query import QueryResult
    from edge_store.saved import saved_queries
    from edge_store.sqlite import open_reader

    settings = load(config).config
    connection = open_reader(Path(settings.store.path))
    try:
        saved = saved_queries(connection)
    finally:
        connection.close()
    rows: list[tuple[Any, ...]] = [
        (name, "config", None, text) for name, text in settings.queries.items()
    ]
    rows += [
        (each.name, "hidden by config" if each.name in settings.queries else "database",
         time_text(each.at), each.sql)
        for each in saved
    ]  # fmt: skip
    result = QueryResult(
        columns=("name", "from", "saved_at", "sql"), rows=sorted(rows, key=str), is_cut=False
    )
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)


@click.command()
@click.argument("name")
@click.option("--config", help="The box's edge-store.toml, or its folder.")
def rm(name: str, config: str | None) -> None:
    """Remove a saved query from the database.

    \b
    Example:
      edge-store query rm slow
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.errors import NotFound
    from edge_store.saved import RemoveQuery

    settings = load(config).config
    name = name.removeprefix("@")

    def said(was_there: Any) -> None:
        if not was_there:
            raise NotFound(
                f"no query @{name} is saved in the database",
                hint="it is one of [queries] in edge-store.toml"
                if name in settings.queries
                else "`edge-store query ls` lists them",
            )
        click.echo(f"@{name} is removed")

    change(settings, "queries.remove", RemoveQuery(name=name), said=said)
