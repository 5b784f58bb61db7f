"""The object beside a replica that names the boot that writes there."""

import socket
from pathlib import Path

import msgspec

from edge_store.clock import now_ms, rfc3339
from edge_store.errors import ReplicationError
from edge_store.ids import BootId, DeviceId
from edge_store.lock import kernel_boot
from edge_store.replica.objects import Found, Objects
from edge_store.result import Record

__all__ = ["Asker", "Owner", "owner_key", "owner_of", "place_of", "read_owner"]

ANSWERS_WITHIN = 3  # looks: one that runs has seen by then what was asked, in spite of a slow store


class Asker(Record, frozen=True, kw_only=True):
    """A boot that wants to know whether the owner is there. ``wrote``: it has written there too."""

    boot_id: BootId
    host: str
    wrote: bool = False


class Owner(Record, frozen=True, kw_only=True):
    """The boot that writes to a path. ``since``: UTC ms by its own clock; ``place``: which file on
    which running kernel; ``nonce``: of this writing of the object.

    ``is_forced``: the replica may hold what its database does not. ``quiet_s``: how long it writes
    nothing there, for the former owner to see that it is no longer his.
    """

    device_id: DeviceId
    boot_id: BootId
    timeline: str
    host: str
    since: int
    place: str = ""
    every_s: float = 30.0
    nonce: str = ""
    is_forced: bool = False
    quiet_s: float = 0.0
    asked_by: Asker | None = None

    @property
    def answers_within_s(self) -> float:
        """How long the question may take that it does not hear of."""
        return ANSWERS_WITHIN * self.every_s

    def __str__(self) -> str:
        return f"{self.host} since {rfc3339(self.since)} (boot {self.boot_id})"


def owner_of(boot_id: BootId, device_id: DeviceId, timeline: str, database: Path) -> Owner:
    """The claim of a boot on the path of its device."""
    return Owner(
        device_id=device_id,
        boot_id=boot_id,
        timeline=timeline,
        host=socket.gethostname(),
        since=now_ms(),
        place=place_of(database),
    )


def place_of(database: Path) -> str:
    """The same for one file on one running kernel: who holds the file's lock is its only writer."""
    file = database.stat()
    return f"{kernel_boot()}/{file.st_dev}/{file.st_ino}"


def owner_key(device_id: DeviceId) -> str:
    """Where its owner is named."""
    return f"{device_id}/owner.json"


async def read_owner(objects: Objects, key: str) -> tuple[Found | None, Owner | None]:
    """The object, and what it says.

    Raises:
        ReplicationError: the store does not answer, or it is not an owner's.
    """
    found = await objects.get(key)
    if found is None:
        return None, None
    try:
        return found, msgspec.json.decode(found.content, type=Owner)
    except msgspec.DecodeError as exc:
        raise ReplicationError(
            f"{key} is not an owner's: {exc}", hint="look at it; who wrote it?"
        ) from exc
