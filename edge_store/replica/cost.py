"""A month's bill for a replica, from what the box has counted and a list of prices.

The lists are of vendors, as of the date beside them; nothing is looked up. Their free shares are
left out: many boxes share one account's.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from edge_store.replica.location import Location
from edge_store.replica.traffic import VERBS, Usage
from edge_store.result import Record

__all__ = ["AGE_MIN_S", "PRICES", "Item", "Prices", "bill", "class_of", "counted_s"]

AWS = "https://s3.amazonaws.com"
MONTH_S = 30 * 86400.0
GB = 1e9
THOUSAND = 1000
AGE_MIN_S = 3600.0  # of what is counted: less of it tells nothing of a month


class Prices(Record, frozen=True, kw_only=True):
    """In USD: of a thousand requests, of a GB that is read, of a GB that is kept for a month."""

    source: str
    put: float = 0.0
    list: float = 0.0
    get: float = 0.0
    delete: float = 0.0
    read_gb: float = 0.0
    stored_gb: float = 0.0


PRICES: Mapping[str, Prices] = {
    "s3": Prices(
        source="aws.amazon.com/s3/pricing, S3 Standard in us-east-1, March 2026; read over the net",
        put=0.005,
        list=0.005,
        get=0.0004,
        read_gb=0.09,
        stored_gb=0.023,
    ),
    "s3-ia": Prices(
        source="aws.amazon.com/s3/pricing, S3 Standard-IA in us-east-1, March 2026; read over the "
        "net, with retrieval",
        put=0.01,
        list=0.01,
        get=0.001,
        read_gb=0.10,
        stored_gb=0.0125,
    ),
    "r2": Prices(
        source="developers.cloudflare.com/r2/pricing, Standard, August 2026",
        put=0.0045,
        list=0.0045,
        get=0.00036,
        stored_gb=0.015,
    ),
    "own": Prices(source="a store of your own: no price"),
}


class Item(NamedTuple):
    """A line of the bill. ``amount``: requests, or bytes."""

    what: str
    amount: float
    unit: str
    price: float
    cost: float


def class_of(location: Location) -> str | None:
    """Which list fits a location; None: none does, and the prices have to be given."""
    match str(location.scheme):
        case "file" | "sftp":
            return "own"
        case "s3":
            host = urlsplit(location.endpoint or AWS).hostname or ""
            if host.endswith("amazonaws.com"):
                return "s3"
            return "r2" if host.endswith("r2.cloudflarestorage.com") else None
    return None


def counted_s(usage: Usage) -> float:
    """How long was counted, in seconds; the box may have been off meanwhile."""
    return (usage.at - usage.since) / 1000


def bill(usage: Usage, prices: Prices, stored_bytes: int | None) -> list[Item]:
    """For 30 days like those that were counted. ``stored_bytes``: what lies in the store now."""
    scale = MONTH_S / max(counted_s(usage), 1.0)
    return list(_items(usage, prices, scale, stored_bytes))


def _items(usage: Usage, prices: Prices, scale: float, stored_bytes: int | None) -> Iterator[Item]:
    each: dict[str, float] = msgspec.to_builtins(prices)
    for verb in VERBS:
        count = usage.month.requests.get(verb, 0) * scale
        price = each[verb.lower()]
        yield Item(f"{verb} requests", count, "1000", price, count / THOUSAND * price)
    read = usage.month.bytes.get("GET", 0) * scale
    yield Item("bytes read", read, "GB", prices.read_gb, read / GB * prices.read_gb)
    written = usage.month.bytes.get("PUT", 0) * scale
    yield Item("bytes written", written, "GB", 0.0, 0.0)
    if stored_bytes is not None:
        cost = stored_bytes / GB * prices.stored_gb
        yield Item("bytes stored", stored_bytes, "GB month", prices.stored_gb, cost)
