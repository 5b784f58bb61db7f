"""How the boxes of a pull are pulled, and what is to be said of each."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from edge_store.fleet.budget import Evicted
from edge_store.fleet.departed import NOTHING, Taken
from edge_store.ids import DeviceId
from edge_store.replica.download import Pace, unpaced
from edge_store.result import Record

__all__ = ["DAY_S", "BoxReport", "Flag", "How", "Manner"]

DAY_S = 86_400.0


class How(StrEnum):
    """What a copy was made by."""

    UNCHANGED = "unchanged"  # the box's head is as it was: nothing was asked for
    ADVANCED = "advanced"  # by the files that were new
    RESTORED = "restored"


class Flag(StrEnum):
    """What somebody should look at, though the copy is good."""

    TXID_REGRESSED = "txid_regressed"  # in one timeline: its replica was begun anew, or set back
    FORKED = "forked"  # in one timeline: the box goes on from an earlier state, as of a snapshot
    HEAD_UNREADABLE = "head_unreadable"  # so that nothing tells whether there is anything new
    SCHEMA_NEWER = "schema_newer"  # than this edge-store's: the digests of its rows were not taken


class BoxReport(Record, frozen=True, kw_only=True):
    """What became of one box. Without an ``error`` its copy is up to date; ``newest_at`` is UTC ms.

    ``kept`` is where the older copy lies, when the new one does not continue it, or
    (``is_continued``) lacks what the box's retention has deleted. ``forgotten``
    results were deleted in such copies, as the box has forgotten them; ``not_forgotten`` are those
    that could not be written, and the search index beside the newest one. ``because``: why an older
    copy was not brought forward. ``evicted`` are older copies, of any box, that were deleted so
    that this one fits. ``removed``: the copy that an earlier pull found damaged, as there is a good
    one now. ``next_at``: when a watch asks for the box again, UTC ms, where that is not with the
    next pass.
    """

    device_id: DeviceId
    store: str = ""
    how: How | None = None
    because: str | None = None
    downloaded_bytes: int = 0
    results: int | None = None
    newest_at: int | None = None
    kept: Path | None = None
    is_continued: bool = False
    flags: tuple[Flag, ...] = ()
    forgotten: int = 0
    not_forgotten: tuple[Path, ...] = ()
    evicted: tuple[Evicted, ...] = ()
    removed: Path | None = None
    next_at: int | None = None
    attempts: int = 1
    seconds: float = 0.0
    error: str | None = None
    code: str | None = None


class Manner(Record, frozen=True, kw_only=True):
    """How every box of a pull is pulled, each attempt within ``timeout_s``. ``is_full``: by a
    restore, whatever is here; else a copy that was brought forward is restored after
    ``full_every_s`` at the latest. ``pace``: see ``Download``. ``taken``: what the lake has of a
    copy; it is asked only where the box's retention has deleted something.
    """

    into: Path
    timeout_s: float
    is_full: bool = False
    full_every_s: float = 7 * DAY_S
    pace: Pace = unpaced
    taken: Callable[[Path], Taken] = lambda _copy: NOTHING
