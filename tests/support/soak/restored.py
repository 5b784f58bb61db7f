"""One restore and what must be true of it. A function of plain values, for another process."""

import asyncio
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from support.daemon import rows

from edge_store.errors import EdgeStoreError
from edge_store.ids import DeviceId
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.points import Txid, list_files, read_points
from edge_store.replica.restore import Restored, restore

__all__ = ["Found", "Wanted", "check"]

TIMEOUT_S = 120.0
TICK_MS = 1000  # a store's times may be of whole seconds

RESULTS = "SELECT seq, id, digest FROM results WHERE seq <= ? ORDER BY seq"
COMMITS = "SELECT commit_id, digest FROM commits WHERE commit_id <= ? ORDER BY commit_id"
GONE = "SELECT seq, id, digest FROM deletions WHERE what = 'result' AND seq <= ?"


class Wanted(NamedTuple):
    """A restore that is to be made. ``acknowledged``: what must be in it, ids by seq. ``at``: the
    moment (UTC s); ``place``: between 0 and 1, of one of its states; without both, the newest one.
    ``absent``: ids that must not be in it.
    """

    url: str
    device_id: str
    database: Path  # the one that was replicated; it may be written meanwhile
    folder: Path
    acknowledged: dict[int, str]
    at: float | None = None
    place: float | None = None
    absent: frozenset[str] = frozenset()


class Found(NamedTuple):
    """What came of it. ``faults``: what is bad about it; none, as it should be."""

    faults: tuple[str, ...]
    results: int = 0
    seconds: float = 0.0
    bytes: int = 0


def check(wanted: Wanted) -> Found:
    """Restore, which checks every page and the digest chain, and compare with the database."""
    folder = Path(tempfile.mkdtemp(dir=wanted.folder, prefix="restored-"))
    copy = folder / "copy.db"
    try:
        done = asyncio.run(_restored(wanted, copy))
    except EdgeStoreError as exc:
        return Found((f"it cannot be restored: {exc.code}: {exc}; see {folder}",))
    faults = tuple(f"{fault}; see {folder}" for fault in _compared(copy, wanted))
    size = copy.stat().st_size
    if not faults:  # else it is the evidence
        shutil.rmtree(folder)
    return Found(faults, done.results, done.seconds, size)


async def _restored(wanted: Wanted, copy: Path) -> Restored:
    location, device_id = parse_location(wanted.url), DeviceId(wanted.device_id)
    at: datetime | Txid | None = None
    if wanted.at is not None:
        at = datetime.fromtimestamp(wanted.at, UTC)
    elif wanted.place is not None:
        files = await list_files(location, read_credentials(location), device_id)
        points = read_points(files, "the replica").points
        at = points[int(wanted.place * len(points))].txid
    return await restore(location, device_id, copy, timeout_s=TIMEOUT_S, at=at)


def _compared(copy: Path, wanted: Wanted) -> list[str]:
    """What the copy has, the database had at that commit: neither more, nor less, nor other."""
    faults = []
    ((last,), (newest,)) = rows(
        copy,
        "SELECT coalesce(max(commit_id), 0) FROM commits "
        "UNION ALL SELECT coalesce(max(seq_to), 0) FROM commits",
    )
    commits = rows(copy, COMMITS, last)
    if commits != rows(wanted.database, COMMITS, last):
        faults.append(f"its {len(commits)} commits up to {last} are not the database's")
    of_copy = {row[0]: row for row in rows(copy, RESULTS, newest)}
    gone_there = {row[0]: row for row in rows(copy, GONE, newest)}
    # In this order: what is deleted in between is in both, not in neither.
    of_database = {row[0]: row for row in rows(wanted.database, RESULTS, newest)}
    of_database |= {row[0]: row for row in rows(wanted.database, GONE, newest)}
    if (of_copy | gone_there) != of_database:
        differ = sorted(
            seq
            for seq in of_database.keys() | of_copy.keys() | gone_there.keys()
            if of_database.get(seq) != of_copy.get(seq, gone_there.get(seq))
        )
        faults.append(f"{len(differ)} results differ, from seq {differ[0]} to {differ[-1]}")
    for seq, result_id in wanted.acknowledged.items():
        if of_copy.get(seq, gone_there.get(seq, (0, "")))[1] != result_id:
            faults.append(f"seq {seq} ({result_id}) was said to be replicated and is not there")
            break
    present = wanted.absent & {row[1] for row in of_copy.values()}
    if present:
        faults.append(f"{len(present)} forgotten results are there")
    if wanted.at is not None:
        (ended,) = rows(copy, "SELECT coalesce(max(completed_at), 0) FROM results")[0]
        if ended > 1000 * wanted.at + TICK_MS:
            faults.append(f"it holds a result of {ended}, after {1000 * wanted.at:.0f}")
    return faults
