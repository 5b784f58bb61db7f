"""What pulls of boxes have met: a file beside the copies, for who looks at the boxes' health until
the next pull. That a store does not answer is no matter of a box.

A pull fails by what the box's replica is, or by what stands between it and the copy: a link that is
too slow, a disk of this machine. Each has a finding of its own.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import (
    Corrupt,
    DiskBudgetSpent,
    DiskFull,
    NotAnEdgeStoreFile,
    ReplicaBehind,
    ReplicaNotFound,
    RestoreFailed,
    RestoreTimedOut,
    StoreError,
    VerifyFailed,
)
from edge_store.fleet.copies import FOLDER
from edge_store.ids import DeviceId
from edge_store.result import Record

if TYPE_CHECKING:  # who only reads it needs no pull
    from edge_store.fleet.find import FoundBox
    from edge_store.fleet.report import BoxReport

__all__ = ["Met", "note_met", "read_met"]

NAME = "met.json"
OF_REPLICA = frozenset(
    kind.code
    for kind in (
        Corrupt, NotAnEdgeStoreFile, ReplicaBehind, ReplicaNotFound, RestoreFailed, VerifyFailed,
    )
)  # fmt: skip
HINDRANCES = {
    RestoreTimedOut.code: "the way to its store, or this machine, is too slow",
    DiskBudgetSpent.code: "--disk-max leaves it no room here",
    DiskFull.code: "this machine's disk is full",
    StoreError.code: "this machine cannot write or read what it needs for it",
}


class Met(Record, frozen=True, kw_only=True):
    """What the newest pull of a box from ``location`` has said, and those before it since ``at``
    (UTC ms).
    """

    at: int
    location: str
    code: str
    error: str

    @property
    def hindrance(self) -> str | None:
        """What it failed by that is not the replica, in words; None: the replica."""
        return HINDRANCES.get(self.code)


def note_met(
    into: Path,
    pulled: "Iterable[tuple[FoundBox, BoxReport]]",
    there: Mapping[str, Collection[DeviceId]],
) -> list[DeviceId]:
    """After a pull, which has the folder's lock. A good one of a box ends what was met; so does
    that it is at its location no more, by ``there`` (see ``Found``): those boxes are returned. That
    a pull is hindered does not end what is wrong with the replica.
    """
    before = read_met(into)
    left = [
        device_id
        for device_id, met in sorted(before.items())
        if met.location in there and device_id not in there[met.location]
    ]
    after = {device_id: met for device_id, met in before.items() if device_id not in left}
    for box, report in pulled:
        if report.error is None:
            after.pop(box.device_id, None)
        elif report.code in OF_REPLICA or report.code in HINDRANCES:
            assert report.code is not None
            location, known = str(box.location), before.get(box.device_id)
            if report.code in HINDRANCES and _is_of_replica(known, location):
                continue  # what is wrong with the replica is so still, as far as anybody knows
            goes_on = known is not None and (known.location, known.code) == (location, report.code)
            at = known.at if goes_on and known is not None else now_ms()
            after[box.device_id] = Met(
                at=at, location=location, code=report.code, error=report.error
            )
    if after != before:
        _keep(into, after)
    return left


def _is_of_replica(met: Met | None, location: str) -> bool:
    return met is not None and met.location == location and met.hindrance is None


def _keep(into: Path, met: Mapping[DeviceId, Met]) -> None:
    place = into / FOLDER / NAME
    writing = place.with_suffix(".part")
    with suppress(OSError):  # the pull says what is wrong with the folder
        place.parent.mkdir(exist_ok=True, mode=0o750)
        writing.write_bytes(msgspec.json.encode(met))
        writing.replace(place)


def read_met(into: Path) -> dict[DeviceId, Met]:
    """By box; without a file, or with one of another version, of none."""
    try:
        return msgspec.json.decode((into / FOLDER / NAME).read_bytes(), type=dict[DeviceId, Met])
    except (OSError, msgspec.DecodeError):
        return {}
