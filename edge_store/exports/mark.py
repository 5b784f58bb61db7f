"""How far an export has come: a small file beside it, replaced whole once what it speaks of is on
the disk. What lies behind a mark is cut when the export goes on, so a kill leaves neither holes nor
doubles.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_store.clock import rfc3339
from edge_store.errors import InvalidRequest
from edge_store.result import Record
from edge_store.selection import Selection

__all__ = [
    "FOLDER_MODE", "Mark", "be_alone", "keeping", "mark_beside", "private", "read_mark",
    "sync_folder", "write_mark", "written",
]  # fmt: skip

FOLDER_MODE, FILE_MODE = 0o750, 0o640  # as a box's database, and a backup of it
HOLDER_BYTES = 16  # a process id


class Mark(Record, frozen=True, kw_only=True):
    """Up to which result, of which box and timeline, the output holds what was wanted.

    ``offset`` is the length of a file that ends there. ``skipped`` says why some are not in it.
    """

    format: str
    target: str  # a URL; of a path the name
    device_id: str
    seq: int
    timeline: str = ""
    digest: str = ""
    offset: int = 0
    rows: int = 0
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    selection: Selection
    bodies: bool = False

    @property
    def whose(self) -> str:
        """What is exported, and where to, in words."""
        times = ("since", "until")
        chosen = [
            f"{name} {rfc3339(value) if name in times else value}"
            for name, value in self.selection.values.items()
        ]
        which = ", ".join([*chosen, *(["with bodies"] if self.bodies else [])])
        what = f"{self.device_id} to {self.format}, {self.target}"
        return f"{what}{f' ({which})' if which else ''}, which came to seq {self.seq}"


def mark_beside(target: Path) -> Path:
    """Where the mark of an export to a file or a folder is.

    Raises:
        InvalidRequest: it has no name, as ``.``.
    """
    if target.name in ("", ".."):
        raise InvalidRequest(
            f"{str(target)!r} is no name for an export",
            hint="name a file, or a folder that is the export's own",
        )
    return target.with_name(f"{target.name}.state.json")


def read_mark(path: Path) -> Mark | None:
    """None where there is none, or an empty file, as ``mktemp`` makes one.

    Raises:
        InvalidRequest: it is no mark.
    """
    try:
        found = path.read_bytes()
        return msgspec.json.decode(found, type=Mark) if found else None
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(
            f"{path} is not the state of an export: {exc}",
            hint="name another --state; where nothing needs that file, remove it",
        ) from exc


def write_mark(path: Path, mark: Mark) -> None:
    """Replace it, at once and for good."""
    with written(path) as made:
        made.write_bytes(msgspec.json.format(msgspec.json.encode(mark), indent=1) + b"\n")
    sync_folder(path.parent)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` once it is on the disk."""
    made = path.with_name(f".{path.name}.tmp")
    try:
        made.unlink(missing_ok=True)
        os.close(private(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        yield made
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def private(path: Path | str, flags: int) -> int:
    """Opens a file that holds results: one that is made is for its owner and group."""
    return os.open(path, flags, FILE_MODE)


def be_alone(descriptor: int, path: Path) -> None:
    """Until it is closed, let no other export write there: two from one mark would make doubles.

    Raises:
        InvalidRequest: one does.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise InvalidRequest(
            f"another export writes to {path}", hint="let it end; then --resume adds what is new"
        ) from exc
    except OSError:  # a file system that has no locks
        pass


@contextmanager
def keeping(state: Path) -> Iterator[None]:
    """Let no other export keep its mark at ``state`` meanwhile, however it spells that. As that
    file is replaced each time, the lock lies beside it, with the id of the process that has it; it
    is removed at the end.

    Raises:
        InvalidRequest: one does.
    """
    state = state.resolve()
    lock = state.with_name(f".{state.name}.lock")
    descriptor = _locked(lock, state)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path, state: Path) -> int:
    while True:
        try:
            descriptor = private(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as exc:
            exc.filename = str(state)  # which could not be written either, and is known by name
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(descriptor, HOLDER_BYTES, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise InvalidRequest(
                f"another export, process {holder or 'unknown'}, keeps its state in {state}",
                hint="let it end, or give this one a --state of its own",
            ) from exc
        except OSError:  # a file system that has no locks
            return descriptor
        if _is_there(lock, descriptor):
            return descriptor
        os.close(descriptor)  # who had it has removed it, after this one had opened it


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Have its entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
