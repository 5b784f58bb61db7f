"""Which boxes a store has, beyond what the listing of its heads says.

A box that has replicated and has no head yet, and one that has a head and no replica any more, are
found by a listing of the store's folders, which takes as many requests as that of the heads. So it
is made once an hour; what it said is remembered beside the copies until then.
"""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import ReplicaNotFound
from edge_store.fleet.copies import FOLDER
from edge_store.ids import DeviceId
from edge_store.replica.extent import list_devices
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.result import Record

__all__ = ["Boxes", "boxes_of"]

FRESH_MS = 3600 * 1000


class Listing(Record, frozen=True, kw_only=True):
    """What a listing of folders said at ``at`` (UTC ms) beyond the heads."""

    location: str
    at: int
    headless: frozenset[DeviceId]  # boxes
    alone: frozenset[DeviceId]  # heads of boxes whose replica is gone


class Boxes(NamedTuple):
    """In order of name. ``alone``: those of them that have a head, and had no replica when folders
    were listed last.
    """

    devices: list[DeviceId]
    alone: frozenset[DeviceId]


async def boxes_of(
    location: Location,
    credentials: Credentials | None,
    heads: Collection[DeviceId],
    into: Path | None,
) -> Boxes:
    """The boxes of a store of which ``heads`` were just listed. ``into``: the folder of their
    copies, if there is one.

    Raises:
        ReplicaNotFound: there is none.
        ReplicationError: the store cannot be listed.
    """
    if location.scheme is Scheme.FILE:  # it costs nothing there
        into = None
    known = _remembered(location, into)
    if known is None or not heads:
        try:
            devices = await list_devices(location, credentials, heads)
        except ReplicaNotFound:
            if not heads:
                raise
            devices = []
        known = Listing(
            location=str(location),
            at=now_ms(),
            headless=frozenset(devices) - frozenset(heads),
            alone=frozenset(heads) - frozenset(devices),
        )
        _remember(known, into)
    return Boxes(sorted(frozenset(heads) | known.headless), frozenset(heads) & known.alone)


def _remembered(location: Location, into: Path | None) -> Listing | None:
    if into is None:
        return None
    try:
        found = msgspec.json.decode(_place(into, str(location)).read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError):
        return None
    is_fresh = 0 <= now_ms() - found.at < FRESH_MS
    return found if is_fresh and found.location == str(location) else None


def _remember(listing: Listing, into: Path | None) -> None:
    if into is None:
        return
    place = _place(into, listing.location)
    writing = place.with_suffix(".part")
    with suppress(OSError):  # the pull says what is wrong with the folder
        into.mkdir(exist_ok=True, parents=True, mode=0o750)
        place.parent.mkdir(exist_ok=True, mode=0o750)
        writing.write_bytes(msgspec.json.encode(listing))
        writing.replace(place)


def _place(into: Path, location: str) -> Path:
    return into / FOLDER / f".listing-{hashlib.sha256(location.encode()).hexdigest()[:16]}.json"
