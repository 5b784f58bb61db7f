"""Texts that have still to be asked as they were sent, of requests of which only what is left after
redaction may be in the database: on the disk, until they have been asked.

They lie in ``held/`` beside the database, one file each under the id of the result to come. The
database is copied to replicas and keeps deleted bytes for a while; this folder does neither. A text
is whole on the disk before its row is committed, and removed once it is asked no more; what a crash
leaves is removed at the next start.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from edge_store.clock import now_ms
from edge_store.errors import NotFound, StoreError
from edge_store.loggers import get_logger
from edge_store.queue.files import FILE_MODE, FOLDER_MODE, told
from edge_store.recorder.redacting import Redacting

__all__ = ["Held"]

log = get_logger(__name__)

FOLDER = "held"


class Held:
    """The folder. Runs on the event loop; what touches the disk on other threads."""

    def __init__(self, database: Path, redacting: Redacting) -> None:
        self.folder = database.with_name(FOLDER)
        self._redacting = redacting
        self._since_ms = now_ms()

    async def hold(
        self, result_id: str, body: bytes, left_of: Callable[[bytes | None], bytes]
    ) -> tuple[bytes, bool]:
        """What is written of a body that is asked later, and whether the body itself is held here.
        It is not where nothing is to be taken out of it. ``left_of`` makes what is written of what
        the rules leave, which is None where they took too long.

        Raises:
            DiskFull, StoreError: the disk.
        """
        redacted = await self._redacting.body(body)
        if redacted is body:
            return body, False
        await asyncio.to_thread(self._write, result_id, body)
        return left_of(redacted), True

    async def sent(self, result_id: str, body: bytes, *, is_held: bool) -> bytes:
        """The body as it was sent. ``body`` and ``is_held`` are those of its row.

        Raises:
            NotFound: it is not here.
            StoreError: the disk.
        """
        return await asyncio.to_thread(self._read, result_id) if is_held else body

    async def let_go(self, result_id: str, *, is_held: bool) -> None:
        """It is asked no more. What the disk does not let go of is removed at the next start."""
        if is_held:
            try:
                await asyncio.to_thread((self.folder / result_id).unlink, missing_ok=True)
            except OSError as exc:
                log.error("held_text_not_removed", id=result_id, error=exc.strerror)

    async def sweep(self, needed: Callable[[], Awaitable[set[str]]]) -> None:
        """Remove what an earlier start has left and nobody asks any more."""
        if self.folder.is_dir():
            await asyncio.to_thread(self._remove, await needed())

    def _write(self, result_id: str, body: bytes) -> None:
        unfinished = self.folder / f".{result_id}-{secrets.token_hex(4)}"
        with told(f"{self.folder} cannot be written to"):
            self.folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            try:
                descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.rename(self.folder / result_id)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _read(self, result_id: str) -> bytes:
        try:
            return (self.folder / result_id).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                "what was sent is not on this box: only what is left of it after redaction is",
                hint="send it again: held texts are not replicated, and gone after a restore",
            ) from None
        except OSError as exc:
            raise StoreError(f"{self.folder} cannot be read: {exc.strerror}") from exc

    def _remove(self, needed: set[str]) -> None:
        for path in tuple(self.folder.iterdir()):
            with suppress(OSError):
                is_earlier = path.stat().st_mtime_ns < self._since_ms * 1_000_000
                if is_earlier and path.name not in needed:
                    path.unlink()
