"""One of a fleet's stores while its boxes' health is looked at: who has a head there, and who was
refused a path. One LIST; then what is asked for, several at a time over few connections.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_store.errors import ReplicationError
from edge_store.fleet.find import Place
from edge_store.fleet.headless import boxes_of
from edge_store.fleet.heads import SUFFIX
from edge_store.ids import DeviceId
from edge_store.replica.bucket import Found, open_bucket
from edge_store.replica.extent import DEVICE_ID, listed
from edge_store.replica.heads import HEADS
from edge_store.replica.location import read_credentials
from edge_store.replica.objects import Entry, Objects
from edge_store.replica.owner import owner_key, read_owner
from edge_store.replica.refused import Refused, device_of_refusal, read_refusal

__all__ = ["Store"]

GETS_AT_A_TIME = 16


class Store:
    """Every call raises ``ReplicationError`` when it does not answer. ``chooses``: which of its
    boxes are looked at.
    """

    def __init__(self, place: Place, chooses: Callable[[DeviceId], bool]) -> None:
        self.name = place.name
        self._ours = place.store
        self._chooses = chooses
        self._location = place.location
        self._credentials = read_credentials(place.location)
        self._objects = Objects(place.location, self._credentials, makes_folder=False)
        self._bucket = open_bucket(place.location, self._credentials)
        self._entries: dict[str, Entry] = {}

    @property
    def location(self) -> str:
        """As a copy from there names it."""
        return str(self._location)

    def takes(self, device_id: DeviceId) -> bool:
        """Whether a box that is found there is looked at."""
        return (self._ours is None or self._ours.takes(device_id)) and self._chooses(device_id)

    async def look(self) -> None:
        """Learn what lies beside the heads."""
        self._entries = await self._objects.list(HEADS)

    def heads(self) -> Iterator[tuple[DeviceId, Entry]]:
        """Those that were listed."""
        return (each for each in self._all_heads() if self.takes(each[0]))

    def _all_heads(self) -> Iterator[tuple[DeviceId, Entry]]:
        for name, entry in self._entries.items():
            device_id = DeviceId(name.removesuffix(SUFFIX))
            if name.endswith(SUFFIX) and DEVICE_ID.fullmatch(device_id):
                yield device_id, entry

    async def alone(self, folder: Path) -> frozenset[DeviceId]:
        """Those whose boxes have no replica there, as a listing said within the last hour.
        ``folder``: of the copies.
        """
        heads = [device_id for device_id, _ in self._all_heads()]
        if not heads:
            return frozenset()
        return (await boxes_of(self._location, self._credentials, heads, folder)).alone

    async def refused(self, since: int) -> list[tuple[DeviceId, str]]:
        """Boxes that were refused a path since then (UTC ms), each in words."""
        keys = [
            entry.key
            for name, entry in self._entries.items()
            if (device_id := device_of_refusal(name)) is not None
            and self.takes(device_id)
            and entry.written_at >= since
        ]
        found = [read_refusal(each.content) for each in await self.read(keys) if each is not None]
        return [(each.device_id, await self._said(each)) for each in found if each is not None]

    async def read(self, keys: Sequence[str]) -> list[Found | None]:
        """The objects, in that order; None where there is none any more."""

        def read() -> list[Found | None]:
            with ThreadPoolExecutor(GETS_AT_A_TIME) as threads:
                return list(threads.map(self._bucket.get, keys))

        return await listed(self._location, read) if keys else []

    async def _said(self, refused: Refused) -> str:
        try:
            _, owner = await read_owner(self._objects, owner_key(refused.device_id))
        except ReplicationError:
            owner = None
        return (
            f"a second box ({refused.host}, boot {refused.boot_id}) goes by this id and replicates "
            f"nothing; the replica is written by {owner or 'nobody who can be read'}"
        )
