"""What the Tab key gives in the SQL of ``edge-store query``: names of the database at hand."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["complete_statement"]

LAST_WORD = re.compile(r"\w*\Z")
WORD = re.compile(r"\w+")
BEFORE_RELATIONS = frozenset({"from", "join"})
USUAL = ("generations", "results")  # whose columns are meant before there is a FROM
HELP_CHARS_MAX = 60


def complete_statement(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """The words that the first argument may go on with; none where the database says nothing."""
    from click.shell_completion import CompletionItem

    from edge_store.errors import EdgeStoreError

    assert isinstance(context.command, click.Group)
    try:
        if incomplete.startswith("@"):
            return list(_saved(context))
        if " " in incomplete:
            return [CompletionItem(text) for text in _statements(context, incomplete)]
    except (EdgeStoreError, OSError):
        return []
    verbs = [name for name in context.command.commands if name.startswith(incomplete)]
    return [
        CompletionItem(name, help=context.command.commands[name].get_short_help_str())
        for name in verbs
    ]


def _database(context: click.Context) -> tuple[Path, dict[str, str]]:
    """The file that the options before name, and the queries of the configuration."""
    files = context.params.get("dbs")
    if files:
        return files[0], {}
    from edge_store.config import load

    settings = load(context.params.get("config")).config
    return Path(settings.store.path), settings.queries


def _saved(context: click.Context) -> "Iterable[CompletionItem]":
    from click.shell_completion import CompletionItem

    from edge_store.saved import saved_queries
    from edge_store.sqlite import open_reader

    path, named = _database(context)
    connection = open_reader(path)
    try:
        found = {each.name: each.sql for each in saved_queries(connection)} | named
    finally:
        connection.close()
    for name, text in sorted(found.items()):
        shown = " ".join(text.split())[:HELP_CHARS_MAX]
        yield CompletionItem(f"@{name}", help=shown)


def _statements(context: click.Context, incomplete: str) -> Iterable[str]:
    """The statement with its last word completed: a table after FROM and JOIN, else a column."""
    from edge_store.shadows import relations_of
    from edge_store.sqlite import open_reader

    path, _ = _database(context)
    connection = open_reader(path)
    try:
        relations = {each.name: each.columns for each in relations_of(connection, "main")}
    finally:
        connection.close()
    last = LAST_WORD.search(incomplete)
    assert last is not None
    before = incomplete[: last.start()]
    words = WORD.findall(before.lower())
    if words and words[-1] in BEFORE_RELATIONS:
        names = sorted(relations)
    else:
        meant = [name for name in relations if name.lower() in words] or USUAL
        names = sorted({each.name for name in meant for each in relations.get(name, ())})
    begin = last[0].lower()
    return [before + name for name in names if name.lower().startswith(begin)]
