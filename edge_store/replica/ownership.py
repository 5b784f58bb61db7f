"""Whose a replica's path is. Two boxes that write to one destroy the replica, and neither is told.

An object beside the replica names the boot that writes there. Whoever knows that boot as one of its
own may go on; anybody else (a second box under the same id, a clone, a box set up anew) may not,
until its operator says so.
"""

import socket
from collections.abc import Awaitable, Callable

import msgspec

from edge_store.clock import now_ms, rfc3339
from edge_store.errors import PathTaken, ReplicationError
from edge_store.ids import BootId, DeviceId
from edge_store.replica.objects import Found, Objects
from edge_store.result import Record

__all__ = ["Owner", "Ownership"]


class Owner(Record, frozen=True, kw_only=True):
    """The boot that writes to a path. ``since``: UTC ms by its own clock."""

    device_id: DeviceId
    boot_id: BootId
    timeline: str
    host: str
    since: int


class Ownership:
    """The claim of one boot on its path. ``is_ours`` tells whether a boot is in our own file."""

    def __init__(
        self,
        objects: Objects,
        device_id: DeviceId,
        boot_id: BootId,
        timeline: str,
        is_ours: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._objects = objects
        self._key = f"{device_id}/owner.json"
        self._is_ours = is_ours
        self._claim = Owner(
            device_id=device_id,
            boot_id=boot_id,
            timeline=timeline,
            host=socket.gethostname(),
            since=now_ms(),
        )

    async def claim(self, *, by_force: bool = False) -> None:
        """Make the path ours, or find that it is.

        Raises:
            PathTaken: another box writes there. ``by_force`` takes it away from that one.
            ReplicationError: the store does not answer.
        """
        found = await self._objects.get(self._key)
        owner = self._read(found)
        if owner is not None and owner.boot_id == self._claim.boot_id:
            return
        if owner is not None and not by_force and not await self._is_ours(owner.boot_id):
            raise self._taken(owner)
        content = msgspec.json.format(msgspec.json.encode(self._claim), indent=2)
        written = (
            await self._objects.create(self._key, content)
            if found is None
            else await self._objects.replace(self._key, content, found)
        )
        if not written:
            raise ReplicationError(
                f"{self._key} was written by another at the same moment",
                hint="it is read again soon",
            )

    async def check(self) -> None:
        """Whether it still is ours.

        Raises:
            PathTaken: somebody else has taken it.
            ReplicationError: the store does not answer.
        """
        owner = self._read(await self._objects.get(self._key))
        if owner is None:
            await self.claim()  # the bucket was emptied: it is nobody's
        elif owner.boot_id != self._claim.boot_id:
            raise self._taken(owner)

    def _read(self, found: Found | None) -> Owner | None:
        if found is None:
            return None
        try:
            return msgspec.json.decode(found.content, type=Owner)
        except msgspec.DecodeError as exc:
            raise ReplicationError(
                f"{self._key} is not an owner's: {exc}", hint="look at it; who wrote it?"
            ) from exc

    def _taken(self, owner: Owner) -> PathTaken:
        return PathTaken(
            f"the replica of {owner.device_id} is written by {owner.host} since "
            f"{rfc3339(owner.since)} (boot {owner.boot_id}), which this database knows nothing of",
            hint="two boxes under one device id, a clone, or a box set up anew: give this one its "
            "own device.id, or take the path: `edge-store replica take-over`",
        )
