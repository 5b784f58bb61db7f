"""Where the files of the archive lie: a folder or an object store, by ``retention.archive``. Only
what writes a file makes the folder.

The calls block, on a thread of the caller's. In a folder a file is flushed to its disk before it
counts as written: what it holds is deleted after that.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from obstore.exceptions import BaseError

from edge_store.errors import ArchiveFailed, ConfigError, EdgeStoreError
from edge_store.replica.bucket import Bucket, open_bucket
from edge_store.replica.explain import explained, is_full
from edge_store.replica.location import Scheme, parse_location, read_credentials
from edge_store.replica.scratch import fsync

__all__ = ["ArchiveStore"]

KEY = "retention.archive"
KEYS = "archive"  # the names of its own keys begin with it
NO_ROOM = (
    "make room there: of the archive nothing goes by itself, and retention goes on once there is "
    "some; it may be moved to another disk, and retention.archive set to that"
)


class ArchiveStore:
    """The files below one address, by name.

    Raises:
        ConfigError: it is no address, or a key is missing.
        ArchiveFailed: of all calls: the store does not answer, or the folder is not there.
    """

    def __init__(self, url: str) -> None:
        self._location = parse_location(url, key=KEY, keys=KEYS)
        try:
            credentials = read_credentials(self._location)
        except ConfigError:
            self._location = parse_location(url, key=KEY)
            credentials = read_credentials(self._location)
        self._prefix = self._location.key_prefix()
        self._open = partial(open_bucket, self._location, credentials, for_download=True)
        self._for_reading: Bucket | None = None

    def __str__(self) -> str:
        return str(self._location)

    def put(self, name: str, content: bytes) -> None:
        """Write it, and in a folder on this machine to the disk."""
        with self._asked():
            self._open(make_folder=True).put(self._key(name), content, "overwrite")
            if self._location.scheme is Scheme.FILE:
                self._flush(Path(self._location.path) / name)

    def hand_over(self, name: str, database: Path) -> None:
        """What root has written to a folder on this machine, and the folders that it made for it,
        are the database's owner's: the daemon goes on there.
        """
        if self._location.scheme is not Scheme.FILE or os.geteuid() != 0:
            return
        root, owner = Path(self._location.path), database.stat()
        path = root / name
        with self._asked():
            for each in (path, *path.parents):
                is_alone = each != root or len(list(root.iterdir())) == 1  # else it was there
                if not each.is_relative_to(root) or each.stat().st_uid != 0 or not is_alone:
                    return
                os.chown(each, owner.st_uid, owner.st_gid)

    @property
    def is_missing(self) -> bool:
        """Whether it is a folder on this machine that is not there."""
        return self._location.scheme is Scheme.FILE and not Path(self._location.path).is_dir()

    def get(self, name: str) -> bytes | None:
        """The file; None where there is none."""
        with self._asked():
            found = self._bucket.get(self._key(name))
        return None if found is None else found.content

    def delete(self, name: str) -> None:
        """Remove it, if it is there. In a folder on this machine it is gone from the disk, and the
        folder it was in stays until ``tidy``: by that one sees that the disk is mounted.
        """
        if self.is_missing:
            return
        with self._asked():
            if self._location.scheme is not Scheme.FILE:
                self._bucket.delete(self._key(name))
            elif (path := Path(self._location.path, name)).exists():
                path.unlink()
                fsync(path.parent)

    def tidy(self, name: str) -> None:
        """Remove the folders that this file was in, as far as they are empty."""
        if self._location.scheme is Scheme.FILE:
            with suppress(OSError):  # it is not empty
                for folder in list(Path(name).parents)[:-1]:
                    Path(self._location.path, folder).rmdir()

    def is_folder_away(self, name: str) -> bool:
        """Whether the folder that this file was in is not there, as where no disk is mounted."""
        path = Path(self._location.path, name)
        return self._location.scheme is Scheme.FILE and not path.parent.is_dir()

    def is_away(self, name: str) -> bool:
        """Whether it is a folder in which this file, which was written there, is not: then its disk
        is not mounted, and what is written now would lie under it.
        """
        is_folder = self._location.scheme is Scheme.FILE
        return is_folder and not Path(self._location.path, name).is_file()

    def require_answer(self) -> None:
        """Raises ``ArchiveFailed`` where no file of it can be asked for, as it is away."""
        self.get("no-such-file")

    def names(self, folder: str) -> list[str]:
        """What is there below ``folder``."""
        with self._asked():
            found = [entry.key for entry in self._bucket.entries(self._key(folder))]
        start = f"{self._prefix}/" if self._prefix else ""
        return sorted(key.removeprefix(start) for key in found)

    @property
    def _bucket(self) -> Bucket:
        if self._for_reading is None:
            self._for_reading = self._open()
        return self._for_reading

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _flush(self, path: Path) -> None:
        for each in (path, *path.parents):
            if not each.is_relative_to(self._location.path):
                return
            fsync(each)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, EdgeStoreError) as exc:
            if isinstance(exc, ConfigError):
                raise
            said = explained(exc, self._location)
            hint = NO_ROOM if is_full(str(said)) else said.hint
            raise ArchiveFailed(f"the archive {said}", hint=hint) from exc
