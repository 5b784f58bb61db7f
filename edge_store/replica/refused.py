"""The refusal: what a box leaves that may not write to its replica's path, as another box has it.

Such a box replicates nothing and has no head: without this nobody but itself knows that there are
two under one id. It lies beside the heads, where the fleet's one LIST finds it, under a name
that is no head's; as a head it is put again now and then, and is taken away when the path is won.
"""

import hashlib
import re
import socket
from contextlib import suppress

import msgspec

from edge_store.errors import ReplicationError
from edge_store.ids import BootId, DeviceId
from edge_store.replica.heads import HEADS
from edge_store.replica.objects import Objects
from edge_store.result import Boot, Record

__all__ = ["Refusal", "Refused", "device_of_refusal", "read_refusal"]

NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.[0-9a-f]{16}\.refused")


class Refused(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Who was refused."""

    device_id: DeviceId
    boot_id: BootId
    timeline: str
    host: str


class Refusal:
    """That of one box. The same over its restarts: one host leaves one."""

    def __init__(self, objects: Objects, boot: Boot) -> None:
        host = socket.gethostname()
        self._objects = objects
        self._refused = Refused(
            device_id=boot.device_id, boot_id=boot.boot_id, timeline=boot.timeline, host=host
        )
        which = hashlib.sha256(f"{host}/{boot.timeline}".encode()).hexdigest()[:16]
        self._key = f"{HEADS}/{boot.device_id}.{which}.refused"

    async def put(self) -> None:
        """Raises ReplicationError: the store does not take it."""
        await self._objects.put(self._key, msgspec.json.encode(self._refused))

    async def remove(self) -> None:
        """It need not be there. What cannot be removed grows old."""
        with suppress(ReplicationError):
            await self._objects.delete(self._key)


def device_of_refusal(name: str) -> DeviceId | None:
    """Whose id it is about, by its name beside the heads; None: it is none."""
    found = NAME.fullmatch(name)
    return DeviceId(found[1]) if found else None


def read_refusal(content: bytes) -> Refused | None:
    """None: it is not understood."""
    try:
        return msgspec.json.decode(content, type=Refused)
    except msgspec.DecodeError:
        return None
