"""Looks into a location without Litestream: which boxes are there, and how far each replica goes.

It is also the quick probe before a restore: Litestream takes two minutes to report a store that
does not answer, or never does; a LIST with short timeouts says at once what is wrong.
"""

import asyncio
import re
from datetime import datetime
from typing import Any

import obstore
from obstore.exceptions import BaseError

from edge_store.errors import ReplicaNotFound, ReplicationError
from edge_store.ids import DeviceId
from edge_store.replica.location import Credentials, Location
from edge_store.result import Record

__all__ = ["Extent", "list_devices", "read_extent"]

LIST_TIMEOUT_S = 60.0
FILES_MAX = 1_000_000  # of one replica; a day of it at one a second is 86,400
DEVICES_MAX = 100_000
DEVICE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # as device.id allows
RESERVED = frozenset({"heads"})  # folders under a prefix that are not boxes
LTX_FILE = re.compile(r"(?:ltx/)?([0-9a-f]+)/([0-9a-f]{16})-([0-9a-f]{16})\.ltx")


class Extent(Record, frozen=True, kw_only=True):
    """What lies in one box's replica."""

    txid: int  # the newest position
    files: int
    bytes: int
    written_at: int  # UTC ms, by the store's clock: when the newest file arrived


async def list_devices(location: Location, credentials: Credentials | None) -> list[DeviceId]:
    """The boxes that have written under ``location``, in order of name.

    Raises:
        ReplicaNotFound: there is none.
        ReplicationError: the store cannot be listed.
    """
    store = location.store(credentials)
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            listing = await obstore.list_with_delimiter_async(store, prefix=location.key_prefix())
    except (BaseError, FileNotFoundError, PermissionError, TimeoutError) as exc:
        raise _explained(exc, location) from exc
    names = [prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"]]
    found = sorted(n for n in names if DEVICE_ID.fullmatch(n) and n not in RESERVED)
    if not found:
        raise ReplicaNotFound(
            f"no box has replicated to {location}",
            hint="give the address as in a box's replica.url, without the device id",
        )
    if len(found) > DEVICES_MAX:
        raise ReplicationError(f"{location} has {len(found)} boxes; {DEVICES_MAX} can be listed")
    return [DeviceId(name) for name in found]


async def read_extent(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> Extent:
    """How far the replica of one box goes, from a listing.

    Raises:
        ReplicaNotFound: it has none there.
        ReplicationError: the store cannot be listed.
    """
    store = location.store(credentials)
    prefix = location.key_prefix(device_id)
    txid = files = size = 0
    newest: datetime | None = None
    try:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            async for chunk in obstore.list(store, prefix=prefix):
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
                    raise ReplicationError(
                        f"{location} holds over {FILES_MAX} files of {device_id}"
                    )
    except (BaseError, FileNotFoundError, PermissionError, TimeoutError) as exc:
        raise _explained(exc, location) from exc
    if newest is None:
        raise ReplicaNotFound(
            f"{location} has no replica of {device_id}",
            hint="check the address and the device id: `edge-store fleet pull` lists the boxes",
        )
    return Extent(txid=txid, files=files, bytes=size, written_at=round(newest.timestamp() * 1000))


def _below(entry: Any, prefix: str | None) -> str:
    return str(entry["path"]).removeprefix(prefix or "").lstrip("/")


def _explained(exc: Exception, location: Location) -> ReplicationError:
    """What a failed LIST means. The store's texts name no keys but the key's id; it is left out."""
    text = str(exc)
    if "NoSuchBucket" in text or "404" in text or isinstance(exc, FileNotFoundError):
        return ReplicaNotFound(f"{location}: there is no such bucket", hint="check the address")
    if "403" in text or "401" in text or "Forbidden" in text or isinstance(exc, PermissionError):
        return ReplicationError(
            f"{location} refuses the keys",
            hint="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may list",
        )
    first = "no answer in time" if isinstance(exc, TimeoutError) else text.partition("\n")[0][:200]
    return ReplicationError(
        f"{location} cannot be reached: {first}",
        hint="check the address, the network and that the store is up",
    )
