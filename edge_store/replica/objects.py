"""Small objects beside the replicas: who owns a path, how far a box is. By key, under a location.

The blocking calls of obstore run on threads of ours, each under our own deadline (see extent.py).
"""

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from edge_store.replica.extent import explained
from edge_store.replica.location import Credentials, Location, Scheme
from edge_store.result import Record

__all__ = ["Found", "Objects"]

TIMEOUT_S = 15.0
OBJECTS_MAX = 100_000  # that are listed

P = ParamSpec("P")
T = TypeVar("T")


class Found(Record, frozen=True, kw_only=True):
    """An object as it was read. ``written_at``: UTC ms by the store's clock."""

    content: bytes
    written_at: int
    version: dict[str, str]  # what the store knows this state of it by


class Objects:
    """Reads and writes whole objects. ``requests`` counts what was asked, by verb.

    Every call raises ``ReplicationError`` when the store does not answer or refuses the keys.
    """

    def __init__(self, location: Location, credentials: Credentials | None) -> None:
        self._location = location
        self._credentials = credentials
        self._prefix = location.key_prefix()
        self.requests: Counter[str] = Counter()

    async def get(self, key: str) -> Found | None:
        """The object; None when there is none."""
        return await self._asked("GET", self._get, key)

    async def list(self, folder: str) -> dict[str, int]:
        """When each object of a folder was written: UTC ms by the store's clock. One request for
        each thousand of them.
        """
        return await self._asked("LIST", self._list, folder)

    async def put(self, key: str, content: bytes) -> None:
        """Write it, over whatever is there."""
        await self._asked("PUT", self._put, key, content, "overwrite")

    async def create(self, key: str, content: bytes) -> bool:
        """Write it if there is none. A store that knows no conditions writes over it."""
        return await self._asked("PUT", self._put, key, content, "create")

    async def replace(self, key: str, content: bytes, found: Found) -> bool:
        """Write it if it is still as ``found``. False when it is not; a store that knows no
        conditions writes over it.
        """
        return await self._asked("PUT", self._put, key, content, found.version)

    async def delete(self, key: str) -> None:
        """Remove it; it need not be there."""
        await self._asked("DELETE", self._delete, key)

    async def _asked(self, verb: str, function: Callable[P, T], *args: P.args, **kw: P.kwargs) -> T:
        self.requests[verb] += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.to_thread(function, *args, **kw)
        except (BaseError, OSError, TimeoutError) as exc:
            raise explained(exc, self._location) from exc

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _store(self) -> Any:
        if self._location.scheme is Scheme.FILE:  # as Litestream makes it
            Path(self._location.path).mkdir(mode=0o750, parents=True, exist_ok=True)
        return self._location.store(self._credentials)

    def _get(self, key: str) -> Found | None:
        try:
            answer = obstore.get(self._store(), self._key(key))
        except (NotFoundError, FileNotFoundError):
            return None
        meta = answer.meta
        return Found(
            content=bytes(answer.bytes()),
            written_at=round(meta["last_modified"].timestamp() * 1000),
            version={name: str(meta[name]) for name in ("e_tag", "version") if meta[name]},
        )

    def _list(self, folder: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for chunk in obstore.list(self._store(), prefix=self._key(folder)):
            for each in chunk:
                name = str(each["path"]).rpartition("/")[2]
                found[name] = round(each["last_modified"].timestamp() * 1000)
            if len(found) > OBJECTS_MAX:
                raise OSError(f"there are over {OBJECTS_MAX} objects in {folder}")
        return found

    def _put(self, key: str, content: bytes, mode: Any) -> bool:
        store, at = self._store(), self._key(key)
        if isinstance(mode, dict) and self._location.scheme is Scheme.FILE:
            return self._replace_file(store, key, content, mode)
        try:
            obstore.put(store, at, content, mode=mode or "overwrite", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            return False
        except NotFoundError:  # it is gone; ``_asked`` has its own meaning for a bucket that is
            if isinstance(mode, dict):
                return False
            raise
        return True

    def _replace_file(self, store: Any, key: str, content: bytes, version: dict[str, str]) -> bool:
        """A folder knows no conditions; the boxes that share it lock it for each other."""
        folder = os.open(Path(self._location.path, key).parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            found = self._get(key)
            if found is None or found.version != version:
                return False
            obstore.put(store, key, content, use_multipart=False)
        finally:
            os.close(folder)
        return True

    def _delete(self, key: str) -> None:
        try:
            obstore.delete(self._store(), self._key(key))
        except (NotFoundError, FileNotFoundError):
            return
