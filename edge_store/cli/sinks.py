"""``edge-store sinks``: where results are pushed to, how far each is, and what it has refused."""

import asyncio
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import chosen_format, output_options, time_text, write_json, write_rows

if TYPE_CHECKING:
    from edge_store.config import Config, SinkSection
    from edge_store.sinks.orders import Standing
    from edge_store.sqlite import Connection

__all__ = ["sinks"]

LETTERS_SHOWN_MAX = 1100  # all that there can be

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.group()
def sinks() -> None:
    """Where results are pushed to ([[sinks]]): how far each is, and what it has refused.

    \b
    Example:
      edge-store sinks ls
      edge-store sinks test warehouse
    """


@sinks.command()
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the sinks. What a sink has just taken is known here a few seconds later.

    \b
    Example:
      edge-store sinks ls
    """
    from edge_store.config import load
    from edge_store.query import QueryResult
    from edge_store.sinks.orders import names_of, standing_of
    from edge_store.sqlite import open_reader

    settings = load(config).config
    with closing(open_reader(Path(settings.store.path))) as connection:
        kinds = {sink.name: sink.kind.value for sink in settings.sinks}
        names = dict.fromkeys([*kinds, *names_of(connection)])
        last = _last_seq(connection)
        rows = [_row(name, kinds.get(name), standing_of(connection, name), last) for name in names]
    columns = ("sink", "kind", "state", "behind", "delivered", "letters", "failure")
    shown = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(shown, chosen_format(fmt, sys.stdout), sys.stdout)


def _row(name: str, kind: str | None, found: "Standing | None", last: int) -> tuple[Any, ...]:
    if found is None:
        return (name, kind, "not begun", None, 0, 0, None)
    state = "not configured" if kind is None else "failing" if found.failure else "ok"
    behind = max(0, last - found.seq)
    return (name, kind, state, behind, found.delivered, found.letters, found.failure)


def _last_seq(connection: "Connection") -> int:
    from edge_store.sql import sql
    from edge_store.sqlite import translated

    with translated("the newest result cannot be read"):
        return int(connection.execute(sql("select_last_seq")).fetchone()[0])


@sinks.command()
@click.argument("name")
@config_option
def show(name: str, config: str | None) -> None:
    """Show how far a sink is, and its dead letters: results that it refused for what they are.

    \b
    Example:
      edge-store sinks show warehouse
    """
    import msgspec

    from edge_store.config import load
    from edge_store.errors import NotFound
    from edge_store.sinks.orders import letters_of, standing_of
    from edge_store.sqlite import open_reader

    settings = load(config).config
    with closing(open_reader(Path(settings.store.path))) as connection:
        found = standing_of(connection, name)
        if found is None:
            raise NotFound(f"no sink {name!r} was ever begun", hint="`edge-store sinks ls`")
        last = _last_seq(connection)
        letters = letters_of(connection, name, LETTERS_SHOWN_MAX)
    shown = msgspec.to_builtins(found)
    shown["at"] = time_text(found.at)
    if found.failing_since is not None:
        shown["failing_since"] = time_text(found.failing_since)
    shown["behind"] = max(0, last - found.seq)
    shown["letters"] = [{**msgspec.to_builtins(each), "at": time_text(each.at)} for each in letters]
    write_json(shown, sys.stdout)


@sinks.command()
@click.argument("name")
@click.option("--id", "result_id", metavar="ID", help="Only the dead letter of this result.")
@config_option
def retry(name: str, result_id: str | None, config: str | None) -> None:
    """Send the dead letters of a sink again; and what it waits with, now and not after its pause.

    \b
    Example:
      edge-store sinks retry warehouse
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.sinks.orders import RetrySink

    change(
        load(config).config, "sinks.retry", RetrySink(name=name, id=result_id),
        said=lambda number: click.echo(f"{name}: {number} dead letters are sent again"),
    )  # fmt: skip


@sinks.command()
@click.argument("name")
@click.option("--to", "to_seq", type=click.IntRange(min=0), metavar="SEQ", help="Only up to this.")
@click.option("--letters", is_flag=True, help="Drop its dead letters instead.")
@click.option("--id", "result_id", metavar="ID", help="Drop the dead letter of this result.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def skip(
    name: str, to_seq: int | None, result_id: str | None, config: str | None, **flags: bool
) -> None:
    """Pass over what waits for a sink: it goes on with the next result. The results stay here.

    \b
    Example:
      edge-store sinks skip warehouse --to 1700
      edge-store sinks skip warehouse --letters
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.sinks.orders import SkipSink

    of_letters = flags["letters"] or result_id is not None
    if of_letters and to_seq is not None:
        raise click.UsageError("give --to, or what is said of dead letters: not both")
    what = "dead letters" if of_letters else "results that wait"
    if not flags["yes"]:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask: give --yes")
        click.confirm(f"Never send the {what} of {name}?", abort=True, err=True)
    params = SkipSink(name=name, to_seq=to_seq, letters=flags["letters"], id=result_id)
    change(
        load(config).config, "sinks.skip", params,
        said=lambda number: click.echo(f"{name}: {number} {what} are passed over"),
    )  # fmt: skip


@sinks.command()
@click.argument("name")
@config_option
def test(name: str, config: str | None) -> None:
    """Connect to a sink and try it out, without any result.

    A web hook is sent an object without results, a broker a message to edge-store/DEVICE/test; of a
    PostgreSQL the table is looked at. A daemon that runs does it, with the secrets that it has;
    else this command, with those of its own environment.

    \b
    Example:
      edge-store sinks test warehouse
      EDGE_STORE_SINK_WAREHOUSE=secret edge-store sinks test warehouse
    """
    from edge_store.cli.change import ask
    from edge_store.config import load

    settings = load(config).config
    known = next((sink for sink in settings.sinks if sink.name == name), None)
    if known is None:
        raise click.UsageError(f"there is no [[sinks]] with the name {name!r}")
    said = ask(Path(settings.store.path), "POST", f"/sinks/{name}/test")
    click.echo(f"{name}: {said['said'] if said is not None else _try_here(settings, known)}")


def _try_here(settings: "Config", sink: "SinkSection") -> str:
    from edge_store.sinks.kinds import make_sink
    from edge_store.sinks.sink import place_of, reach
    from edge_store.status import known_device_id

    made = make_sink(sink, place_of(sink), known_device_id(settings) or "box")
    return asyncio.run(reach(made, sink.timeout_s))
