"""Makes Litestream take the whole database anew, for when what it has taken is not, or may not be,
what the file holds, or the path was written by somebody else since.

Frames of a COMMIT whose flush failed stay in the WAL until they are written over. Litestream reads
the WAL itself: it may have replicated them, and then waits for ever behind a place that no longer
is (seen: a replica that stood still, and said nothing).

Litestream goes on from its own folder, and by the salts of the WAL: neither tells it that another
box has written to the path meanwhile, and of two histories it makes one file that passes every
integrity check (seen). With an empty WAL and an empty folder it looks where the replica is, uploads
the whole database behind that, and leaves what lies there as it is.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from edge_store.errors import ReplicationError, StoreError
from edge_store.ids import BootId
from edge_store.loggers import get_logger
from edge_store.replica.local import drop
from edge_store.result import Record
from edge_store.sqlite import DatabaseThread
from edge_store.wal import empty_wal

__all__ = ["Ground", "forget_wal", "upload_anew"]

log = get_logger(__name__)


class Pausable(Protocol):
    """What runs Litestream."""

    def paused(self) -> AbstractAsyncContextManager[None]:
        """Without a child, so that the WAL may be emptied."""


async def forget_wal(litestream: Pausable, database: DatabaseThread) -> None:
    """Empty the WAL while no Litestream runs. The next one uploads the whole database.

    Raises:
        StoreError: it could not be emptied.
    """
    try:
        async with litestream.paused():
            await _empty_wal(database)
    except ReplicationError as exc:
        raise StoreError(f"the WAL cannot be emptied: {exc}", hint=exc.hint) from exc


class Snapshotting(Pausable, Protocol):
    """Who can also take a snapshot."""

    async def snapshot(self) -> None:
        """See ``Litestream.snapshot``."""


async def upload_anew(litestream: Snapshotting, database: DatabaseThread) -> None:
    """The same, and a snapshot of the whole database at once: a restore begins with the newest one,
    so it needs nothing of what was uploaded before.

    Raises:
        StoreError: the WAL could not be emptied.
        ReplicationError: the snapshot was not uploaded.
    """
    async with litestream.paused():
        await _empty_wal(database)
        await litestream.snapshot()


async def _empty_wal(database: DatabaseThread, *, is_new: bool = False) -> None:
    """``is_new``: nothing was ever replicated from here, so that it costs nothing."""
    await empty_wal(database)
    if is_new:
        log.info("wal_emptied", consequence="the replica begins with the whole database")
    else:
        log.warning("wal_emptied", consequence="the replica is uploaded anew")


class Stand(Record, frozen=True, kw_only=True):
    """Under whose claim Litestream's folder was filled last, from which file."""

    boot_id: BootId
    inode: int


class Ground:
    """Litestream's folder, and whether a claim may go on from what it holds."""

    def __init__(self, path: Path, ltx: Path, database: DatabaseThread) -> None:
        self.ltx = ltx
        self._database = database
        self._file = ltx.with_name("claim.json")
        self._inode = path.stat().st_ino
        self._is_adopted = False

    def adopt(self) -> bool:
        """What lies on the path was written from this folder, before anybody had claimed it. False
        when the folder was ever filled under a claim: it may have been of another file.
        """
        self._is_adopted = not self._file.exists()
        return self._is_adopted

    def continues(self, former: BootId | None) -> bool:
        """Whether who takes the place of ``former`` may go on from what the folder holds."""
        return self._is_adopted if former is None else former == self.stand

    @property
    def stand(self) -> BootId | None:
        """The boot that filled the folder from this very file."""
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=Stand)
        except (OSError, msgspec.DecodeError):
            return None
        return found.boot_id if found.inode == self._inode else None

    def note(self, boot_id: BootId) -> None:
        """From now on it is filled under this claim.

        Raises:
            ReplicationError: the disk does not take it.
        """
        self._is_adopted = False
        content = msgspec.json.encode(Stand(boot_id=boot_id, inode=self._inode))
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            self._file.parent.mkdir(mode=0o750, exist_ok=True)
            new.write_bytes(content)
            new.replace(self._file)
        except OSError as exc:
            raise ReplicationError(f"{self._file} cannot be written: {exc.strerror}") from exc

    def forget(self) -> None:
        """Whatever the folder holds, nobody may go on from it.

        Raises:
            ReplicationError: the disk does not take that.
        """
        self._is_adopted = False
        try:
            self._file.unlink(missing_ok=True)
        except OSError as exc:
            raise ReplicationError(f"{self._file} cannot be removed: {exc.strerror}") from exc

    async def clear(self, litestream: Pausable) -> bool:
        """Empty the folder and the WAL while no Litestream runs. Whether anything was ever
        replicated from here.

        Raises:
            ReplicationError: they could not be emptied.
        """
        async with litestream.paused():
            is_new = not (self._file.exists() or self.ltx.exists())
            self.forget()  # first: half emptied it is nobody's
            try:
                await asyncio.to_thread(drop, self.ltx)
                await _empty_wal(self._database, is_new=is_new)
            except (OSError, StoreError) as exc:
                hint = exc.hint if isinstance(exc, StoreError) else "see the folder `litestream`"
                raise ReplicationError(
                    f"the replica cannot be begun anew: {exc}", hint=hint
                ) from exc
        return not is_new
