"""``edge-store replica cost``: a month's bill for the replica, from the box's own counters."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import bytes_text, json_line, span_text, time_text, write_rows
from edge_store.cli.values import AT_LEAST_ZERO

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.replica.cost import Item, Prices
    from edge_store.replica.location import Location

__all__ = ["cost"]

OPTIONS = {
    "put": "Of 1000 PUT requests, in USD.",
    "list": "Of 1000 LIST requests.",
    "get": "Of 1000 GET requests.",
    "delete": "Of 1000 DELETE requests.",
    "read_gb": "Of a GB that is read.",
    "stored_gb": "Of a GB that is kept for a month.",
}


def price_options(command: Any) -> Any:
    """``--put-price`` and the like."""
    for name, text in reversed(OPTIONS.items()):
        option = f"--{name.replace('_', '-')}-price"
        command = click.option(option, f"price_{name}", type=AT_LEAST_ZERO, help=text)(command)
    return command


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option(
    "--prices", "prices_of", type=click.Choice(["s3", "s3-ia", "r2", "own"]),
    help="Which list of prices; without it, the one that fits replica.url.",
)  # fmt: skip
@price_options
@click.option(
    "--stored-bytes", type=click.IntRange(min=0),
    help="What lies in the store; without it, the store is asked.",
)  # fmt: skip
@click.option("--early", is_flag=True, help="Even if less than an hour is counted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def cost(
    config: str | None,
    prices_of: str | None,
    stored_bytes: int | None,
    *,
    early: bool,
    as_json: bool,
    **own: float | None,
) -> None:
    """Say what the replica costs in a month like the days that this box has counted.

    At most 30 days are counted, and said; of less than an hour no month is told. The daemon need
    not run. Prices are lists of vendors as of a date that is shown, without their free shares; give
    yours where they differ.

    \b
    Example:
      edge-store replica cost
      edge-store replica cost --prices s3 --put-price 0.0054 --stored-bytes 2000000000
    """
    from edge_store.config import load
    from edge_store.errors import ReplicaNotFound
    from edge_store.replica.cost import AGE_MIN_S, bill, counted_s
    from edge_store.replica.location import parse_location
    from edge_store.replica.traffic import read_usage

    settings = load(config).config
    location = parse_location(settings.replica.url)
    prices, is_listed = _prices(location, prices_of, own)
    usage = read_usage(Path(settings.store.path))
    if usage is None:
        raise ReplicaNotFound(
            "nothing is counted yet: this box has not replicated anything",
            hint="start the daemon; it writes down what it counts every 30 s",
        )
    span_s = counted_s(usage)
    if span_s < AGE_MIN_S and not early:
        raise ReplicaNotFound(
            f"only {span_text(span_s)} are counted, from {time_text(usage.since)}: that tells "
            "little of a month, and a box's first hour uploads everything",
            hint="ask again when an hour is counted; --early shows it nevertheless",
        )
    if stored_bytes is None:
        stored_bytes = _stored_bytes(settings, location)
    items = bill(usage, prices, stored_bytes)
    total = sum(item.cost for item in items)
    about = {
        "where": str(location),
        "profile": settings.replica.profile.value,
        "counted_from": time_text(usage.since),
        "counted_to": time_text(usage.at),
        "counted_s": round(span_s),
        "prices": prices.source,
        "bytes_stored_are_known": stored_bytes is not None,
    }
    if as_json:
        lines = [item._asdict() for item in items]
        click.echo(json_line({**about, "month": lines, "usd": round(total, 4)}, sys.stdout))
        return
    click.echo(f"{about['where']}, {about['profile']}")
    span = f"{span_text(span_s)} from {about['counted_from']} to {about['counted_to']}"
    click.echo(f"30 days like the {span}")
    click.echo(f"prices: {prices.source}{'' if is_listed else ', and as given'}")
    _write(items, total)
    if stored_bytes is None:
        click.echo("what lies in the store is not known: it does not answer; see --stored-bytes")


def _prices(
    location: "Location", prices_of: str | None, own: dict[str, float | None]
) -> "tuple[Prices, bool]":
    """The list with what was given instead, and whether nothing was."""
    import msgspec

    from edge_store.replica.cost import PRICES, class_of

    given = {name.removeprefix("price_"): price for name, price in own.items() if price is not None}
    name = prices_of or class_of(location)
    if name is None and not given:
        raise click.UsageError(
            f"no list of prices is known to fit {location}: choose one by --prices, "
            "or give yours: --put-price and the other options"
        )
    return msgspec.structs.replace(PRICES[name or "own"], **given), not given


def _stored_bytes(settings: "Config", location: "Location") -> int | None:
    """None when the store does not say."""
    from edge_store.errors import EdgeStoreError
    from edge_store.replica.extent import read_extent
    from edge_store.replica.location import read_credentials
    from edge_store.status import known_device_id

    device_id = known_device_id(settings)
    if device_id is None:
        return None
    try:
        return asyncio.run(read_extent(location, read_credentials(location), device_id)).bytes
    except EdgeStoreError:
        return None


def _write(items: "list[Item]", total: float) -> None:

    from edge_store.query import QueryResult

    rows: list[tuple[str, ...]] = [
        (
            item.what,
            bytes_text(round(item.amount)) if "GB" in item.unit else f"{item.amount:.0f}",
            f"{item.price:g} per {item.unit}",
            f"{item.cost:.2f}",
        )
        for item in items
    ]
    rows.append(("in all", "", "", f"{total:.2f}"))
    columns = ("what", "in 30 days", "price, USD", "USD")
    write_rows(QueryResult(columns=columns, rows=rows, is_cut=False), "table", sys.stdout)
