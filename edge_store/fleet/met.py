"""What pulls have met in the replicas of boxes: a file beside the copies, for who looks at the
boxes' health until the next pull. That a store does not answer is no matter of a box.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import (
    Corrupt,
    NotAnEdgeStoreFile,
    ReplicaBehind,
    ReplicaNotFound,
    RestoreFailed,
    VerifyFailed,
)
from edge_store.fleet.copies import FOLDER
from edge_store.ids import DeviceId
from edge_store.result import Record

if TYPE_CHECKING:  # who only reads it needs no pull
    from edge_store.fleet.box import BoxReport
    from edge_store.fleet.find import FoundBox

__all__ = ["Met", "note_met", "read_met"]

NAME = "met.json"
OF_REPLICA = frozenset(
    kind.code
    for kind in (
        Corrupt, NotAnEdgeStoreFile, ReplicaBehind, ReplicaNotFound, RestoreFailed, VerifyFailed,
    )
)  # fmt: skip


class Met(Record, frozen=True, kw_only=True):
    """What the newest pull of a box from ``location`` has said, and those before it since ``at``
    (UTC ms).
    """

    at: int
    location: str
    code: str
    error: str


def note_met(into: Path, pulled: "Iterable[tuple[FoundBox, BoxReport]]") -> None:
    """After a pull, which has the folder's lock. A good one of a box ends what was met."""
    before = read_met(into)
    after = dict(before)
    for box, report in pulled:
        if report.error is None:
            after.pop(box.device_id, None)
        elif report.code in OF_REPLICA:
            location, known = str(box.location), before.get(box.device_id)
            goes_on = known is not None and (known.location, known.code) == (location, report.code)
            at = known.at if goes_on and known is not None else now_ms()
            after[box.device_id] = Met(
                at=at, location=location, code=report.code, error=report.error
            )
    if after != before:
        _keep(into, after)


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
