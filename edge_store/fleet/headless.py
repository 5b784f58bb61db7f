"""Which boxes a store has, beyond what the listing of its heads says.

A box that has replicated and has no head yet, and one that has a head and no replica any more, are
found by a listing of the store's folders, which takes as many requests as that of the heads. So it
is made once an hour; what it said is remembered beside the copies until then. A folder may hold no
more than who owns it: with each listing so many are looked into, a request each, in turn. Where
that fails the others are listed all the same, and of that box stays known what was.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import ReplicaNotFound, ReplicationError
from edge_store.fleet.copies import FOLDER
from edge_store.ids import DeviceId
from edge_store.replica.extent import Devices, look_for_devices
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.result import Record

__all__ = ["Boxes", "boxes_of"]

FRESH_MS = 3600 * 1000
LOOKED_INTO_MAX = 20  # folders: over SFTP one after the other, within the time of a listing


class Listing(Record, frozen=True, kw_only=True):
    """What a listing of folders said at ``at`` (UTC ms) beyond the heads. ``looked_upto``: the last
    box whose folder was looked into.
    """

    location: str
    at: int
    headless: frozenset[DeviceId]  # boxes
    alone: frozenset[DeviceId]  # heads of boxes whose replica is gone
    looked_upto: str = ""


class Boxes(NamedTuple):
    """In order of name. ``alone``: those of them that have a head, and had no replica when folders
    were listed last. ``unseen``: folders that could not be looked into just now, and why.
    """

    devices: list[DeviceId]
    alone: frozenset[DeviceId]
    unseen: Mapping[DeviceId, ReplicationError]
    is_listed: bool


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
    if location.scheme is Scheme.FILE:  # 70 µs of CPU a box there
        into = None
    headed = frozenset(heads)
    known = _remembered(location, into)
    there = Devices([], {})
    is_listed = known is None or not _is_fresh(known) or not heads
    if known is None or is_listed:
        if location.scheme is Scheme.FILE:
            looked, upto = headed, ""
        else:
            looked, upto = _next(headed, known) if into is not None else (frozenset(), "")
        try:
            there = await look_for_devices(location, credentials, headed - looked)
        except ReplicaNotFound:
            if not heads:
                raise
        known = _listing(location, headed, looked, there, known)
        known = msgspec.structs.replace(known, looked_upto=upto)
        _remember(known, into)
    return Boxes(sorted(headed | known.headless), headed & known.alone, there.unseen, is_listed)


def _listing(
    location: Location,
    headed: frozenset[DeviceId],
    looked: frozenset[DeviceId],
    there: Devices,
    before: Listing | None,
) -> Listing:
    """What is known now. Of a box that was not looked into, what was before."""
    devices, unseen = frozenset(there.found), frozenset(there.unseen)
    was_alone = before.alone if before is not None else frozenset()
    was_headless = before.headless if before is not None else frozenset()
    return Listing(
        location=str(location),
        at=now_ms(),
        headless=(devices | (was_headless & unseen)) - headed,
        alone=(headed - devices - unseen) | ((was_alone & headed) - (looked - unseen)),
    )


def _next(headed: frozenset[DeviceId], known: Listing | None) -> tuple[frozenset[DeviceId], str]:
    """Whose folders are looked into now, and the last of them: those that come after the last of
    the time before, and those whose replica was gone then.
    """
    names = sorted(headed)
    start = bisect_right(names, known.looked_upto) if known is not None else 0
    chosen = (names[start:] + names[:start])[:LOOKED_INTO_MAX]
    again = sorted(known.alone & headed)[:LOOKED_INTO_MAX] if known is not None else []
    return frozenset([*chosen, *again]), chosen[-1] if chosen else ""


def _remembered(location: Location, into: Path | None) -> Listing | None:
    if into is None:
        return None
    try:
        found = msgspec.json.decode(_place(into, str(location)).read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.location == str(location) else None


def _is_fresh(listing: Listing) -> bool:
    return 0 <= now_ms() - listing.at < FRESH_MS


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
