"""The copies in a folder, and what the folder knows of each beyond what is in it: how far its
replica was, and what the box's head was then. That holds only for the very file that it was
written for: one that anybody has changed is pulled anew.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge_store.errors import Corrupt, NotAnEdgeStoreFile
from edge_store.fleet.history import End
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head
from edge_store.replica.points import LtxFile, Txid
from edge_store.result import Record

__all__ = [
    "FOLDER", "Standing", "copy_path", "is_of_file", "is_restore_due", "is_same", "keep_standing",
    "last_standing", "require_named", "require_own", "tells_nothing_new", "witnesses_of",
    "work_folder",
]  # fmt: skip

FOLDER = ".pulled"


class Standing(Record, frozen=True, kw_only=True):
    """``txid``: the position whose state the copy is, every page of it. ``witnesses``: files of the
    replica that lay there before, of up to that position. ``head``: the object as it was before;
    ``head_version`` is what the store knows it by. ``newest_at``: UTC ms. ``restored_at`` (UTC ms)
    and ``restored_txid``: when all of a copy was last made and checked by a restore, and its state.
    ``not_forgotten``: names of older copies that may hold what the box has forgotten, and of the
    search index beside this one. ``end``: where the copy ends; None where that is still to be
    looked up.
    """

    location: str
    txid: Txid
    witnesses: tuple[LtxFile, ...]
    results: int
    newest_at: int | None
    head: str | None
    head_version: str | None
    restored_at: int = 0
    restored_txid: Txid = Txid(0)
    renewed_at: int = 0  # UTC ms
    not_forgotten: tuple[str, ...] = ()
    end: End | None = None
    size: int = 0
    modified_ns: int = 0


def copy_path(into: Path, device_id: DeviceId) -> Path:
    """Where the copy of a box lies."""
    return into / f"{device_id}.db"


def require_named(copy: Path, device_id: DeviceId | None) -> DeviceId:
    """``device_id``, which is in the copy: it must be the box that its name says. Of another one it
    would be counted twice.

    Raises:
        NotAnEdgeStoreFile: it is not.
    """
    named = copy.name.partition(".")[0]
    if device_id is None:
        raise NotAnEdgeStoreFile(f"{copy} belongs to no box: it was never set up")
    if device_id != named:
        raise NotAnEdgeStoreFile(f"{copy} is {device_id}'s, not {named}'s: move it away")
    return device_id


def require_own(copy: Path, device_id: DeviceId, said: Iterable[object]) -> None:
    """Each of what rows of a copy say of whose they are must be the box itself.

    Raises:
        Corrupt: it is not: a box speaks of itself only.
    """
    for other in said:
        if other != device_id:
            raise Corrupt(f"{copy} holds rows of {other}, and is {device_id}'s: none is counted")


def is_of_file(standing: Standing, copy: Path, location: str) -> bool:
    """Whether it is what is known of the copy, from there, and the file was not changed since."""
    try:
        state = copy.stat()
    except OSError:
        return False
    here = (location, state.st_size, state.st_mtime_ns)
    return here == (standing.location, standing.size, standing.modified_ns)


def last_standing(copy: Path) -> Standing | None:
    """What was last written down of a copy, whether or not the file has changed since."""
    try:
        return msgspec.json.decode(_place(copy).read_bytes(), type=Standing)
    except (OSError, msgspec.DecodeError):
        return None


def keep_standing(copy: Path, standing: Standing) -> None:
    """Write it down once the copy is in its place: after a crash between, none holds. It is not
    flushed: what a power cut loses, a restore finds out again.
    """
    state = copy.stat()
    standing = msgspec.structs.replace(standing, size=state.st_size, modified_ns=state.st_mtime_ns)
    place = _place(copy)
    content, writing = msgspec.json.encode(standing), place.with_suffix(".part")
    try:
        writing.write_bytes(content)
    except FileNotFoundError:
        place.parent.mkdir(exist_ok=True, mode=0o750)
        writing.write_bytes(content)
    writing.replace(place)


def is_restore_due(standing: Standing, copy: Path, now: int, every_s: float) -> bool:
    """Whether all of a copy that was brought forward since is to be made and checked anew.

    After between half of ``every_s`` and all of it, which of these by chance: boxes that were first
    pulled on one day are not all restored on one day again.
    """
    if standing.txid == standing.restored_txid:
        return False
    chance = hashlib.sha256(f"{copy.stem} {standing.restored_at}".encode()).digest()
    share = 0.5 + int.from_bytes(chance[:4]) / 2**33
    return now - standing.restored_at >= 1000 * every_s * share


def tells_nothing_new(head: Head, before: str | None) -> bool:
    """Whether a head tells of the same results as the one before: it may tell otherwise of its
    machine.
    """
    try:
        known = msgspec.json.decode(before or "", type=Head)
    except msgspec.DecodeError:  # there was none
        return False
    return msgspec.structs.replace(known, machine=head.machine) == head


def work_folder(into: Path) -> Path:
    """Where new copies are made. A pull that begins removes what a killed one has left there."""
    return into / FOLDER / "work"


def witnesses_of(files: Iterable[LtxFile], txid: Txid) -> tuple[LtxFile, ...]:
    """The newest file of each level that reaches no further than ``txid``. A replica that was begun
    anew counts its positions from 1 again: as long as one of these lies there, it was not.
    """
    newest: dict[int, LtxFile] = {}
    for file in files:
        known = newest.get(file.level)
        if file.last <= txid and (known is None or known.last < file.last):
            newest[file.level] = file
    return tuple(newest.values())


def is_same(listed: str | None, known: str | None) -> bool:
    """Whether an object is as it was when the store knew it by ``known``. Some stores leave the
    quotes of an ETag out of a list, or out of what they answer.
    """
    return None not in (listed, known) and str(listed).strip('"') == str(known).strip('"')


def _place(copy: Path) -> Path:
    return copy.parent / FOLDER / f"{copy.stem}.json"
