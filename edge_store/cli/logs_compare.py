"""``edge-store logs diff`` and ``replay``: what two results, or two answers, differ in."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.batch import KEY_VARIABLE, daemon_at
from edge_store.cli.logs_text import opened, printable
from edge_store.cli.output import write_json
from edge_store.cli.target import target_options
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.logs.compare import Difference

__all__ = ["diff", "replay"]

COLOURS = {"-": "red", "+": "green", "@": "cyan"}
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.command()
@click.argument("one", metavar="ID")
@click.argument("other", metavar="ID")
@json_option
@target_options
def diff(one: str, other: str, db: Path | None, config: str | None, *, as_json: bool) -> None:
    """Show what differs between two results: prompts, parameters, answers.

    Exits 0 where nothing does, 1 where something does.

    \b
    Example:
      edge-store logs diff 0190d3e1-7c1f-7a5e 0190d3e1-9f00-7b11
    """
    from edge_store.logs.compare import differences
    from edge_store.logs.find import find_id, load

    with opened(db, config) as connection:
        first, second = (
            load(connection, find_id(connection, each)).result for each in (one, other)
        )
    found = differences(first, second)
    if as_json:
        write_json({"one": first.id, "other": second.id, "differences": found}, sys.stdout)
    else:
        _write(found, first.id, second.id)
    sys.exit(1 if found else 0)


@click.command()
@click.argument("result_id", metavar="ID")
@click.option("--url", metavar="URL", help="The daemon's address, if it is not the configured one.")
@click.option(
    "--key", envvar=KEY_VARIABLE,
    help=f"The API key, if one is needed; {KEY_VARIABLE} keeps it out of the list of processes.",
)  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=600.0, show_default=True,
    help="Most seconds without a byte of the answer.",
)  # fmt: skip
@json_option
@target_options
def replay(  # noqa: PLR0913  (one parameter per option)
    result_id: str,
    url: str | None,
    key: str | None,
    timeout: float,
    db: Path | None,
    config: str | None,
    *,
    as_json: bool,
) -> None:
    """Send a stored request again, as a new one, and show how the answers differ.

    It is the same bytes, to the running daemon or to --url; streamed, if it was. The new result has
    an id of its own, and never the Idempotency-Key of the first. What /v1/responses was asked is
    sent as the chat that the engine was given. Exits 0 where the answers are the same, 1 where they
    differ.

    \b
    Example:
      edge-store logs replay 0190d3e1-7c1f-7a5e
      edge-store logs replay 0190d3e1-7c1f-7a5e --db restored.db --url http://127.0.0.1:8000
    """
    from edge_store.api.routes import GENERATING
    from edge_store.logs.compare import differing_answers
    from edge_store.logs.find import find_id, load
    from edge_store.logs.replay import route_of, send

    if db is not None and config is None and url is None:
        raise click.UsageError("a file alone has no daemon: give --url")
    with opened(db, config) as connection:
        result = load(connection, find_id(connection, result_id)).result
    dialect = GENERATING[route_of(result)]
    with daemon_at(url, config, key=key, timeout_s=timeout) as daemon:
        answer = send(daemon, result, dialect)
    found = differing_answers(result.outputs, answer.outputs)
    if as_json:
        said = {"one": result.id, "other": answer.id, "differences": found}
        write_json({**said, "outputs": answer.outputs, "streamed": answer.is_stream}, sys.stdout)
    else:
        _write(found, result.id, answer.id or "the new answer")
    sys.exit(1 if found else 0)


def _write(found: "Sequence[Difference]", one: str, other: str) -> None:
    """As diff(1) does; in colour on a terminal."""
    if not found:
        click.echo(f"{one} and {other}: the same")
        return
    click.echo(f"--- {one}\n+++ {other}")
    for difference in found:
        click.secho(difference.what, bold=True)
        for line in difference.lines:
            click.secho(printable(line), fg=COLOURS.get(line[:1]))
