"""Which states a replica can give back, computed from a listing of its LTX files.

An LTX file holds the pages that changed between two TXIDs; one that begins at 1 is a snapshot. A
state can be restored when files without a gap lead to its TXID. Its time is when the first file
that ends there arrived: by the store's clock; in a folder, by the box's. Level 0 has a file for
each replica sync and is kept for a while; what is older lies on the boundaries of level 1.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import NewType

from edge_store.errors import ReplicaNotFound, ReplicationError, RestoreFailed
from edge_store.ids import DeviceId
from edge_store.replica.bucket import open_bucket
from edge_store.replica.extent import FILES_MAX, LIST_TIMEOUT_S, LTX_FILE, listed
from edge_store.replica.location import Credentials, Location
from edge_store.result import Record

__all__ = [
    "LtxFile",
    "Point",
    "Points",
    "Txid",
    "chain",
    "chain_onwards",
    "choose",
    "counterpart",
    "list_files",
    "read_points",
    "snapshot_of",
    "snapshots_in",
]

Txid = NewType("Txid", int)

SNAPSHOT_LEVEL = 9
COUNTERPART_BYTES, COUNTERPART_SHARE = 1 << 20, 0.25  # a check downloads no more beside a snapshot


class LtxFile(Record, frozen=True, kw_only=True):
    """A file of the replica. ``written_at``: UTC ms; ``version``: the store's, if any."""

    key: str
    level: int
    first: int
    last: int
    size: int
    written_at: int
    version: str | None = None


class Point(Record, frozen=True, kw_only=True):
    """A state that can be restored. ``at``: UTC ms."""

    txid: Txid
    at: int

    def __str__(self) -> str:
        return f"TXID {self.txid:016x} of {_moment(datetime.fromtimestamp(self.at / 1000, UTC))}"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Points(Record, frozen=True, kw_only=True):
    """All states that can be restored, oldest first. ``of``: whose, and where, in words.

    ``fine_from``: from there on there is one for each replica sync; before it, one for each merge.
    ``missing_from``: the TXID of a file that is not there, though later ones are, from the time
    ``later_at`` (UTC ms).
    """

    of: str
    points: tuple[Point, ...]
    fine_from: Point
    missing_from: Txid | None = None
    later_at: int = 0

    @property
    def oldest(self) -> Point:
        return self.points[0]

    @property
    def newest(self) -> Point:
        return self.points[-1]

    @property
    def told(self) -> str:
        """The range in words."""
        if self.fine_from.txid == self.oldest.txid:
            steps = "one for each replica sync"
        elif self.fine_from.txid == self.newest.txid:
            steps = "one for each merge of them"
        else:
            steps = f"one for each merge of them, and for each replica sync from {self.fine_from}"
        return f"it can give {len(self.points)} states from {self.oldest} to {self.newest}, {steps}"


async def list_files(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> list[LtxFile]:
    """The LTX files of one box's replica.

    Raises:
        ReplicaNotFound: it has none there.
        ReplicationError: the store cannot be listed.
    """
    files = await listed(location, _list_files, location, credentials, device_id)
    if not files:
        raise ReplicaNotFound(
            f"{location} has no replica of {device_id}: nothing is replicated there yet, "
            "or it was removed",
            hint="check the address and the device id: `edge-store fleet pull` lists the boxes",
        )
    return files


def _list_files(
    location: Location, credentials: Credentials | None, device_id: DeviceId
) -> list[LtxFile]:
    prefix = location.key_prefix(device_id)
    deadline = time.monotonic() + LIST_TIMEOUT_S
    files = []
    for entry in open_bucket(location, credentials).entries(prefix):
        if time.monotonic() > deadline:
            raise TimeoutError
        name = LTX_FILE.fullmatch(entry.key.removeprefix(prefix or "").lstrip("/"))
        if name is not None:
            files.append(
                LtxFile(
                    key=entry.key,
                    level=int(name[1], 16),
                    first=int(name[2], 16),
                    last=int(name[3], 16),
                    size=entry.size,
                    written_at=entry.written_at,
                    version=entry.version,
                )
            )
        if len(files) > FILES_MAX:
            raise ReplicationError(f"{location} holds over {FILES_MAX} files of {device_id}")
    return files


def read_points(files: Iterable[LtxFile], of: str) -> Points:
    """The states that these files lead to. ``of`` says in words whose they are.

    Raises:
        ReplicaNotFound: there is none: no file begins at the first TXID.
    """
    ordered = sorted(files, key=attrgetter("last", "first"))
    times: dict[int, int] = {}  # by TXID, ascending
    fine = {file.last for file in ordered if file.level == 0}
    newest = 0
    for file in ordered:
        if file.last in times:
            times[file.last] = min(times[file.last], file.written_at)
        elif file.first <= newest + 1:
            times[file.last] = file.written_at
            newest = file.last
    if not times:
        raise ReplicaNotFound(
            f"{of} lacks its first snapshot: no state can be restored",
            hint="wait until the box has uploaded its first snapshot",
        )
    points = tuple(Point(txid=Txid(txid), at=at) for txid, at in times.items())
    fine_from = points[-1]
    for point in reversed(points):
        if point.txid not in fine:
            break
        fine_from = point
    later = [file.written_at for file in ordered if file.first > newest + 1]
    return Points(
        of=of,
        points=points,
        fine_from=fine_from,
        missing_from=Txid(newest + 1) if later else None,
        later_at=min(later, default=0),
    )


def choose(points: Points, wanted: datetime | int | None) -> Point:
    """The newest state; the newest one that was replicated by a time; or that of a TXID.

    Raises:
        ReplicaNotFound: there is none of then or before, or none of exactly that TXID.
        RestoreFailed: files before the newest ones are missing.
    """
    match wanted:
        case None:
            if points.missing_from is not None:
                raise _lacking(points, points.missing_from)
            return points.newest
        case datetime():
            by = wanted.timestamp() * 1000
            if points.missing_from is not None and points.later_at <= by:
                raise _lacking(points, points.missing_from)
            early = [point for point in points.points if point.at <= by]
            if early:
                return early[-1]
            raise ReplicaNotFound(
                f"{points.of} holds no state from {_moment(wanted)} or before: {points.told}",
                hint="choose a later --at: snapshots are kept for replica.snapshot_retention_s",
            )
        case _:
            place = bisect_right(points.points, wanted, key=attrgetter("txid"))
            if place and points.points[place - 1].txid == wanted:
                return points.points[place - 1]
            near = points.points[max(0, place - 1) : place + 1]
            shown = " and ".join(str(point) for point in near)
            raise ReplicaNotFound(
                f"{points.of} holds no state of TXID {wanted:016x}: {points.told}",
                hint=f"the nearest: {shown}. What a TXID has replicated is in every later one too",
            )


def _lacking(points: Points, missing_from: Txid) -> RestoreFailed:
    return RestoreFailed(
        f"{points.of} lacks files from TXID {missing_from:016x} on, and later ones are there: "
        f"{points.told}",
        hint="where the box still runs, `edge-store replica drill` there uploads its database "
        f"anew; else restore the last one before the gap: --txid {points.newest.txid:016x}",
    )


def chain(
    files: Iterable[LtxFile], point: Point, without: Container[int] = ()
) -> Sequence[LtxFile]:
    """The files that lead to that state, in order: the newest snapshot, then each time the one
    that leads furthest, as Litestream chooses. ``without``: snapshots to pass over, by the TXIDs
    at which they end.

    Raises:
        RestoreFailed: without those none lead there.
    """
    usable = [file for file in files if file.last <= point.txid and not _is_passed(file, without)]
    snapshots = [file for file in usable if file.level == SNAPSHOT_LEVEL]
    chosen = [max(snapshots, key=attrgetter("last"))] if snapshots else []
    later = _onwards(usable, chosen[0].last if chosen else 0, point.txid)
    if later is None:
        raise RestoreFailed(
            f"{point} can only be made of a snapshot that does not hold that state",
            hint="restore a state from before it: `edge-store replica points` lists them",
        )
    return [*chosen, *later]


def _is_passed(file: LtxFile, without: Container[int]) -> bool:
    """Whether it is one of the snapshots that are passed over."""
    return file.level == SNAPSHOT_LEVEL and file.last in without


def snapshot_of(chosen: Sequence[LtxFile]) -> Txid | None:
    """Where the snapshot ends that a chain begins with."""
    return Txid(chosen[0].last) if chosen[0].level == SNAPSHOT_LEVEL else None


def snapshots_in(files: Iterable[LtxFile]) -> set[int]:
    """Where they end."""
    return {file.last for file in files if file.level == SNAPSHOT_LEVEL}


def counterpart(files: Iterable[LtxFile], chosen: Sequence[LtxFile]) -> LtxFile | None:
    """Where the state is a snapshot's alone: the smallest other file that leads to the same state.

    Litestream reads the database and its WAL again for a snapshot, long after the other files were
    made: damage that came meanwhile is in the snapshot only (seen: results missing, in a copy that
    passed every check). None where there is no other, or it is too large for a check.
    """
    snapshot = chosen[-1]
    if snapshot.level != SNAPSHOT_LEVEL:
        return None
    most = max(COUNTERPART_BYTES, COUNTERPART_SHARE * snapshot.size)
    others = (
        file
        for file in files
        if file.last == snapshot.last and file.level != SNAPSHOT_LEVEL and file.size <= most
    )
    return min(others, key=attrgetter("size"), default=None)


def chain_onwards(files: Iterable[LtxFile], since: Txid, point: Point) -> Sequence[LtxFile] | None:
    """The files of the fewest bytes that lead from the state ``since`` to that one, without
    snapshots; None where none do. A merged file may reach far back before ``since``.
    """
    usable = (f for f in files if since < f.last <= point.txid and f.level != SNAPSHOT_LEVEL)
    reached = [int(since)]  # states, ascending; to each, the bytes and the last file on the way
    ways: dict[int, tuple[int, LtxFile | None, int]] = {int(since): (0, None, 0)}
    for file in sorted(usable, key=attrgetter("last", "size")):
        begin, end = bisect_left(reached, file.first - 1), bisect_left(reached, file.last)
        if begin == end:
            continue
        before = min(reached[begin:end], key=lambda txid: ways[txid][0])
        way = (ways[before][0] + file.size, file, before)
        if file.last not in ways:
            reached.append(file.last)
        if file.last not in ways or way[0] < ways[file.last][0]:
            ways[file.last] = way
    if point.txid not in ways:
        return None
    chosen: list[LtxFile] = []
    at = int(point.txid)
    while (file_of := ways[at][1]) is not None:
        chosen.append(file_of)
        at = ways[at][2]
    return chosen[::-1]


def _onwards(files: Iterable[LtxFile], reached: int, txid: int) -> list[LtxFile] | None:
    usable = sorted(files, key=attrgetter("first", "level"))
    chosen: list[LtxFile] = []
    place = 0
    while reached < txid:
        best: LtxFile | None = None
        while place < len(usable) and usable[place].first <= reached + 1:
            best = _further(best, usable[place])
            place += 1
        if best is None or best.last <= reached:
            return None
        chosen.append(best)
        reached = best.last
    return chosen if reached == txid else None


def _further(one: LtxFile | None, other: LtxFile) -> LtxFile:
    if one is None:
        return other
    return max(one, other, key=lambda file: (file.last, -file.first, file.level))
