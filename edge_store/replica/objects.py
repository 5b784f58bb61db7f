"""Small objects beside the replicas: who owns a path, how far a box is. By key, under a location.

The calls of the store block, so each runs on a thread, under our own deadline.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from obstore.exceptions import BaseError

from edge_store.errors import ReplicationError
from edge_store.replica.bucket import Bucket, Entry, Found, Precondition, open_bucket
from edge_store.replica.explain import explained
from edge_store.replica.location import Credentials, Location
from edge_store.replica.traffic import Traffic

__all__ = ["Entry", "Found", "Objects"]

TIMEOUT_S = 15.0
LIST_TIMEOUT_S = (
    120.0  # of a hundred thousand, which are a hundred requests; each has its own bound
)
OBJECTS_MAX = 100_000  # that are listed

P = ParamSpec("P")
T = TypeVar("T")


class Objects:
    """Reads and writes whole objects. ``traffic`` is what was asked for since the start. Who only
    reads is not to make a folder where a disk is not mounted: ``makes_folder``.

    Every call raises ``ReplicationError`` when the store does not answer or refuses the keys.
    """

    def __init__(
        self, location: Location, credentials: Credentials | None, *, makes_folder: bool = True
    ) -> None:
        self._location = location
        self._makes_folder = makes_folder
        self._credentials = credentials
        self._prefix = location.key_prefix()
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @property
    def traffic(self) -> Traffic:
        """Of this process, as of now."""
        return Traffic(requests=dict(self._requests), bytes=dict(self._bytes))

    async def get(self, key: str) -> Found | None:
        """The object; None when there is none."""
        found = await self._asked("GET", lambda bucket: bucket.get(self._key(key)))
        self._bytes["GET"] += len(found.content) if found else 0
        return found

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """A part of the object."""
        part = await self._asked(
            "GET", lambda bucket: bucket.get_range(self._key(key), start, length)
        )
        self._bytes["GET"] += len(part)
        return part

    async def list(self, folder: str) -> dict[str, Entry]:
        """The objects of a folder by their names. One request for each thousand of them."""
        key = self._key(folder)
        return await self._asked(
            "LIST", lambda bucket: _by_name(bucket.entries(key), folder), LIST_TIMEOUT_S
        )

    async def put(self, key: str, content: bytes) -> None:
        """Write it, over whatever is there."""
        await self._put(key, content, "overwrite")

    async def create(self, key: str, content: bytes) -> bool:
        """Write it if there is none. A store that knows no conditions writes over it."""
        return await self._put(key, content, "create")

    async def replace(self, key: str, content: bytes, found: Found) -> bool:
        """Write it if it is still as ``found``. False when it is not; a store that knows no
        conditions writes over it.
        """
        return await self._put(key, content, found.version)

    async def delete(self, key: str) -> None:
        """Remove it; it need not be there."""
        await self._asked("DELETE", lambda bucket: bucket.delete(self._key(key)))

    async def _put(self, key: str, content: bytes, precondition: Precondition) -> bool:
        self._bytes["PUT"] += len(content)
        return await self._asked(
            "PUT", lambda bucket: bucket.put(self._key(key), content, precondition)
        )

    async def _asked(
        self, verb: str, ask: Callable[[Bucket], T], timeout_s: float = TIMEOUT_S
    ) -> T:
        self._requests[verb] += 1

        def asked() -> T:
            return ask(
                open_bucket(self._location, self._credentials, make_folder=self._makes_folder)
            )

        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.to_thread(asked)
        except (BaseError, OSError, TimeoutError) as exc:
            raise explained(exc, self._location) from exc

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key


def _by_name(entries: Iterable[Entry], folder: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        found[entry.key.rpartition("/")[2]] = entry
        if len(found) > OBJECTS_MAX:
            raise ReplicationError(f"there are over {OBJECTS_MAX} objects in {folder}")
    return found
