"""Looks into a location without Litestream: which boxes are there, and how far each replica goes.

It is also the quick probe before a restore: Litestream takes two minutes to report a store that
does not answer, or never does; a LIST with short timeouts says at once what is wrong. The blocking
calls of obstore run on threads of ours: its own, behind the asynchronous ones, abort a process
that ends soon after them.
"""

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from edge_store.errors import ReplicaNotFound, ReplicationError
from edge_store.ids import DeviceId
from edge_store.replica.location import DATABASE_NAME, Credentials, Location
from edge_store.result import Record

__all__ = ["DEVICE_ID", "Extent", "explained", "list_devices", "listed", "read_extent"]

LIST_TIMEOUT_S = 60.0
FILES_MAX = 1_000_000  # of one replica; a day of it at one a second is 86,400
DEVICES_MAX = 10_000
LISTS_AT_A_TIME = 32
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # as device.id allows
RESERVED = frozenset({"heads"})  # folders under a prefix that are not boxes
LTX_FILE = re.compile(r"(?:ltx/)?([0-9a-f]+)/([0-9a-f]{16})-([0-9a-f]{16})\.ltx")

STATUS = re.compile(r"status code: (\d{3})\b")  # as obstore says it
REFUSALS = (PermissionDeniedError, UnauthenticatedError, PermissionError)

P = ParamSpec("P")
T = TypeVar("T")


class Extent(Record, frozen=True, kw_only=True):
    """What lies in one box's replica."""

    txid: int  # the newest position
    files: int
    bytes: int
    written_at: int  # UTC ms, by the store's clock: when the newest file arrived


async def list_devices(location: Location, credentials: Credentials | None) -> list[DeviceId]:
    """The boxes that have written under ``location``, in order of name. Other folders are none.

    Raises:
        ReplicaNotFound: there is none.
        ReplicationError: the store cannot be listed.
    """
    found = await listed(location, _find_devices, location, credentials)
    if not found:
        raise ReplicaNotFound(
            f"no box has replicated to {location}",
            hint="give the address as in a box's replica.url, without the device id",
        )
    return found


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
            f"{location} has no replica of {device_id}: nothing is replicated there yet",
            hint="check the address and the device id: `edge-store fleet pull` lists the boxes",
        )
    return extent


async def listed(location: Location, function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
    """Call ``function`` on a thread. Cancelled, the thread goes on until its own deadline."""
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            return await asyncio.to_thread(function, *args, **kw)
    except (BaseError, FileNotFoundError, PermissionError, TimeoutError) as exc:
        raise explained(exc, location) from exc


def _find_devices(location: Location, credentials: Credentials | None) -> list[DeviceId]:
    store = location.store(credentials)
    deadline = time.monotonic() + LIST_TIMEOUT_S

    def is_box(folder: str) -> bool:
        if time.monotonic() > deadline:
            raise TimeoutError
        below = obstore.list_with_delimiter(store, prefix=folder)["common_prefixes"]
        return any(_name(prefix) == DATABASE_NAME for prefix in below)

    folders = {
        _name(prefix): prefix
        for prefix in obstore.list_with_delimiter(store, prefix=location.key_prefix())[
            "common_prefixes"
        ]
    }
    names = sorted(name for name in folders if DEVICE_ID.fullmatch(name) and name not in RESERVED)
    if len(names) > DEVICES_MAX:
        raise ReplicationError(f"{location} has {len(names)} boxes; {DEVICES_MAX} can be listed")
    with ThreadPoolExecutor(LISTS_AT_A_TIME) as threads:
        boxes = threads.map(is_box, [folders[name] for name in names])
        return [DeviceId(name) for name, is_one in zip(names, boxes, strict=True) if is_one]


def _read_extent(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> Extent | None:
    prefix = location.key_prefix(device_id)
    deadline = time.monotonic() + LIST_TIMEOUT_S
    txid = files = size = 0
    newest: datetime | None = None
    for chunk in obstore.list(location.store(credentials), prefix=prefix):
        if time.monotonic() > deadline:
            raise TimeoutError
        for entry in chunk:
            name = LTX_FILE.fullmatch(_below(entry, prefix))
            if name is None:
                continue
            files += 1
            size += entry["size"]
            txid = max(txid, int(name[3], 16))
            written = entry["last_modified"]
            newest = written if newest is None else max(newest, written)
        if files > FILES_MAX:
            raise ReplicationError(f"{location} holds over {FILES_MAX} files of {device_id}")
    if newest is None:
        return None
    return Extent(txid=txid, files=files, bytes=size, written_at=round(newest.timestamp() * 1000))


def _name(prefix: str) -> str:
    return prefix.rstrip("/").rpartition("/")[2]


def _below(entry: Any, prefix: str | None) -> str:
    return str(entry["path"]).removeprefix(prefix or "").lstrip("/")


def explained(exc: Exception, location: Location) -> ReplicationError:
    """What a failed LIST means. The store's texts name no keys but the key's id; it is left out."""
    text = str(exc)
    found = STATUS.search(text)  # the address, with a port and a prefix, is in the text too
    status = found[1] if found else None
    if status == "404" or isinstance(exc, NotFoundError | FileNotFoundError):
        return ReplicaNotFound(f"{location}: there is no such bucket", hint="check the address")
    if status in ("401", "403") or isinstance(exc, REFUSALS):
        return ReplicationError(
            f"{location} refuses the keys",
            hint="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may list",
        )
    first = "no answer in time" if isinstance(exc, TimeoutError) else text.partition("\n")[0][:200]
    return ReplicationError(
        f"{location} cannot be reached: {first}",
        hint="check the address, the network and that the store is up",
    )
