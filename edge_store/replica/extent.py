"""Looks into a location without Litestream: which boxes are there, and how far each replica goes.

It is also the quick probe before a restore: Litestream takes two minutes to report a store that
does not answer, or never does; a LIST with short timeouts says at once what is wrong. Listings
block, so they run on threads.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, ParamSpec, TypeVar

from obstore.exceptions import BaseError

from edge_store.errors import ReplicaNotFound, ReplicationError
from edge_store.ids import NO_DEVICES, DeviceId
from edge_store.replica.bucket import open_bucket
from edge_store.replica.explain import explained
from edge_store.replica.location import DATABASE_NAME, Credentials, Location
from edge_store.result import Record

__all__ = [
    "DEVICE_ID", "Devices", "Extent", "list_devices", "listed", "look_for_devices", "read_extent",
]  # fmt: skip

LIST_TIMEOUT_S = 60.0
LOOKS_END_S = 20.0  # before that: none begins that would take the listing's last seconds
FILES_MAX = 1_000_000  # of one replica; a day of it at one a second is 86,400
DEVICES_MAX = 100_000
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # as device.id allows
LTX_FILE = re.compile(r"(?:ltx/)?([0-9a-f]+)/([0-9a-f]{16})-([0-9a-f]{16})\.ltx")

P = ParamSpec("P")
T = TypeVar("T")


class Extent(Record, frozen=True, kw_only=True):
    """What lies in one box's replica."""

    txid: int  # the newest position
    files: int
    bytes: int
    written_at: int  # UTC ms, by the store's clock: when the newest file arrived


class Devices(NamedTuple):
    """In order of name. ``unseen``: folders that could not be looked into, and why: they are boxes,
    or none.
    """

    found: list[DeviceId]
    unseen: Mapping[DeviceId, ReplicationError]


async def list_devices(
    location: Location, credentials: Credentials | None, known: Collection[DeviceId] = ()
) -> list[DeviceId]:
    """The boxes that have written under ``location``, in order of name. Other folders are none.
    Those not ``known`` as boxes already cost a request each.

    Raises:
        ReplicaNotFound: there is none.
        ReplicationError: the store cannot be listed, or one of its folders not looked into.
    """
    devices = await look_for_devices(location, credentials, known)
    for error in devices.unseen.values():
        raise error
    return devices.found


async def look_for_devices(
    location: Location, credentials: Credentials | None, known: Collection[DeviceId] = ()
) -> Devices:
    """The same, where a folder that cannot be looked into does not keep the others.

    Raises:
        ReplicaNotFound: there is none.
        ReplicationError: the store cannot be listed.
    """
    devices = await listed(location, _find_devices, location, credentials, frozenset(known))
    if not devices.found and not devices.unseen:
        raise ReplicaNotFound(
            f"no box has replicated to {location}",
            hint="give the address as in a box's replica.url, without the device id",
        )
    return devices


async def read_extent(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> Extent:
    """How far the replica of one box goes, from a listing.

    Raises:
        ReplicaNotFound: it has none there.
        ReplicationError: the store cannot be listed.
    """
    extent = await listed(location, _read_extent, location, credentials, device_id)
    if extent is None:
        raise ReplicaNotFound(
            f"{location} has no replica of {device_id}: nothing is replicated there yet, "
            "or it was removed",
            hint="check the address and the device id: `edge-store fleet pull` lists the boxes",
        )
    return extent


async def listed(location: Location, function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
    """Call ``function`` on a thread. Cancelled, the thread goes on until its own deadline."""
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            return await asyncio.to_thread(function, *args, **kw)
    except (BaseError, OSError, TimeoutError) as exc:
        raise explained(exc, location) from exc


def _find_devices(
    location: Location, credentials: Credentials | None, known: Collection[DeviceId]
) -> Devices:
    bucket = open_bucket(location, credentials)
    deadline = time.monotonic() + LIST_TIMEOUT_S
    (folders,) = bucket.folders([location.key_prefix()], LIST_TIMEOUT_S)
    if isinstance(folders, Exception):
        raise folders
    found = {_name(each): each for each in folders}
    names = sorted(name for name in found if DEVICE_ID.fullmatch(name) and name not in NO_DEVICES)
    if len(names) > DEVICES_MAX:
        raise ReplicationError(f"{location} has {len(names)} boxes; {DEVICES_MAX} can be listed")
    unknown = [name for name in names if name not in known]
    left_s = deadline - LOOKS_END_S - time.monotonic()
    looked = dict(
        zip(unknown, bucket.folders([found[name] for name in unknown], left_s), strict=True)
    )
    unseen = {
        DeviceId(name): explained(below, location)
        for name, below in looked.items()
        if isinstance(below, Exception)
    }

    def is_box(name: str) -> bool:
        below = looked.get(name)
        return below is None or (
            not isinstance(below, Exception) and DATABASE_NAME in map(_name, below)
        )

    return Devices([DeviceId(name) for name in names if is_box(name)], unseen)


def _read_extent(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> Extent | None:
    prefix = location.key_prefix(device_id)
    deadline = time.monotonic() + LIST_TIMEOUT_S
    txid = files = size = written_at = 0
    for entry in open_bucket(location, credentials).entries(prefix):
        if time.monotonic() > deadline:
            raise TimeoutError
        name = LTX_FILE.fullmatch(entry.key.removeprefix(prefix or "").lstrip("/"))
        if name is None:
            continue
        files += 1
        size += entry.size
        txid = max(txid, int(name[3], 16))
        written_at = max(written_at, entry.written_at)
        if files > FILES_MAX:
            raise ReplicationError(f"{location} holds over {FILES_MAX} files of {device_id}")
    if not files:
        return None
    return Extent(txid=txid, files=files, bytes=size, written_at=written_at)


def _name(prefix: str) -> str:
    return prefix.rpartition("/")[2]
