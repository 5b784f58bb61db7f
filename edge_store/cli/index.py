"""``edge-store index``: indexes on a path inside stored JSON."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.change import alone
from edge_store.cli.output import bytes_text, chosen_format, output_options, write_rows

if TYPE_CHECKING:
    from edge_store.sqlite import Connection

__all__ = ["index"]

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.group()
def index() -> None:
    """Indexes on a path inside stored JSON, for queries that filter by it.

    A path begins with output (the JSON of an answer) or metadata (the caller's), as in
    output.customer.id, metadata.order or output.items[0].sku. Each index costs every later result
    that has the path some microseconds.

    \b
    Example:
      edge-store index add output.customer.id
      edge-store query "select * from outputs where json_extract(output_json, '$.customer.id') = 7"
    """


@index.command()
@click.argument("path", metavar="JSON.PATH")
@config_option
def add(path: str, config: str | None) -> None:
    """Make an index. The daemon must be stopped: exit 75 when it runs.

    \b
    Example:
      edge-store index add metadata.order
    """
    from edge_store.indexes import JsonPath, add_index

    parsed = JsonPath.parse(path)

    def change(connection: "Connection") -> str:
        is_new = add_index(connection, parsed)
        where = f"it is used where a query says {parsed.expression}"
        return f"{parsed}: {where}" if is_new else f"{parsed} was there already: {where}"

    _change(config, change)


@index.command()
@click.argument("path", metavar="JSON.PATH")
@config_option
def rm(path: str, config: str | None) -> None:
    """Remove an index. The daemon must be stopped: exit 75 when it runs.

    \b
    Example:
      edge-store index rm metadata.order
    """
    from edge_store.indexes import JsonPath, remove_index

    parsed = JsonPath.parse(path)

    def change(connection: "Connection") -> str:
        remove_index(connection, parsed)
        return f"{parsed}: removed"

    _change(config, change)


@index.command()
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the indexes: their expression, entries, and about how many bytes each takes.

    \b
    Example:
      edge-store index ls
    """
    from edge_store.config import load
    from edge_store.indexes import list_indexes
    from edge_store.query import QueryResult
    from edge_store.sqlite import open_reader

    connection = open_reader(Path(load(config).config.store.path))
    try:
        found = list_indexes(connection)
    finally:
        connection.close()
    chosen = chosen_format(fmt, sys.stdout)
    rows = [
        (i.path, i.table, i.expression, i.entries,
         bytes_text(i.bytes) if chosen == "table" else i.bytes)
        for i in found
    ]  # fmt: skip
    columns = ("path", "table", "expression", "entries", "bytes")
    write_rows(QueryResult(columns=columns, rows=rows, is_cut=False), chosen, sys.stdout)


def _change(config: str | None, change: Callable[["Connection"], str]) -> None:
    from edge_store.config import load

    alone(load(config).config, lambda connection: click.echo(change(connection)))
