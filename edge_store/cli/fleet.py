"""``edge-store fleet``: bring many boxes' databases here, and ask questions across them."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.fleet_boxes import label, ls, show
from edge_store.cli.fleet_health import health, places_asked
from edge_store.cli.fleet_pull import pull
from edge_store.cli.fleet_query import query
from edge_store.cli.fleet_stats import search, stats
from edge_store.cli.lake import export, lake
from edge_store.cli.output import chosen_format, output_options, write_rows
from edge_store.cli.values import SPAN

if TYPE_CHECKING:
    from edge_store.fleet.find import Place, Unlisted
    from edge_store.fleet.heads import Seen
    from edge_store.replica.heads import Head

__all__ = ["fleet"]


@click.group()
def fleet() -> None:
    """Many boxes from one place.

    \b
    Example:
      edge-store fleet pull --from s3://edge/fleet?endpoint=https://host --into fleet
      edge-store fleet query "select device_id, count(*) from results group by 1" --in fleet
    """


for command in (pull, export, lake, query, stats, search, ls, show, label, health):
    fleet.add_command(command)


@fleet.command()
@click.option(
    "--from",
    "url",
    help="Where boxes replicate to: a URL or a folder. Else the stores of fleet.toml in --in.",
)
@click.option(
    "--in", "folder", help="The folder that `fleet pull` filled, to compare.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@click.option(
    "--dead-after", type=SPAN, default="1d", show_default=True, help="Without a sign.",
)  # fmt: skip
@output_options
def heads(url: str | None, folder: Path | None, dead_after: float, fmt: str | None) -> None:
    """Tell which boxes are alive, by the heads that they keep beside their replicas.

    A box whose replica holds everything renews its head every five minutes. `alive` and `idle`: it
    did, and there is more than in the copy here, or not. `late`: not for eleven minutes; it has no
    network, or its replica is stuck. `dead`: not for so long. `tampered`: its head and the
    copy here contradict each other. Exits 1 if any is dead, tampered or unreadable, or a store did
    not answer: that one is named on standard error.

    \b
    Example:
      edge-store fleet heads --from s3://edge/fleet?endpoint=https://host --in fleet
      edge-store fleet heads --in fleet
    """
    from edge_store.clock import now_ms
    from edge_store.fleet.heads import BAD, judged_heads
    from edge_store.fleet.registry import Registry, load_registry
    from edge_store.query import QueryResult

    registry = load_registry(folder) if folder is not None else Registry()
    places = places_asked((url,) if url else (), registry)
    seen, unlisted = asyncio.run(_heads_of_all(places))
    judged = judged_heads(seen, now_ms(), folder, dead_after)
    columns = ("device_id", "state", "pulse_age_s", "seq", "rows", "txid", "version", "message")
    rows = [
        (each.device_id, each.state.value, each.pulse_age_s, *_of_head(each.head), each.message)
        for each in judged
    ]
    result = QueryResult(columns=columns, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)
    for store in unlisted:
        click.echo(f"edge-store: {store.store}: {store.error}", err=True)
        if store.hint:
            click.echo(f"  {store.hint}", err=True)
    if unlisted or any(each.state in BAD for each in judged):
        sys.exit(1)


async def _heads_of_all(places: "Sequence[Place]") -> "tuple[list[Seen], list[Unlisted]]":
    """What the stores say, and which did not answer. Where that is the only one, it is raised."""
    from edge_store.errors import ReplicationError
    from edge_store.fleet.find import Unlisted

    answers = await asyncio.gather(*map(_heads_of, places), return_exceptions=True)
    seen: list[Seen] = []
    unlisted: list[Unlisted] = []
    for place, answer in zip(places, answers, strict=True):
        if not isinstance(answer, BaseException):
            seen += answer
        elif isinstance(answer, ReplicationError) and len(places) > 1:
            unlisted.append(
                Unlisted(store=place.name, error=str(answer), code=answer.code, hint=answer.hint)
            )
        else:
            raise answer
    return seen, unlisted


async def _heads_of(place: "Place") -> "list[Seen]":
    from edge_store.fleet.heads import read_heads
    from edge_store.replica.location import read_credentials
    from edge_store.replica.objects import Objects

    credentials = read_credentials(place.location)
    seen = await read_heads(Objects(place.location, credentials, makes_folder=False))
    return [each for each in seen if place.store is None or place.store.takes(each.device_id)]


def _of_head(head: "Head | None") -> tuple[int | str | None, ...]:
    if head is None:
        return (None,) * 4
    return head.seq, head.rows, f"{head.txid:016x}", head.version
