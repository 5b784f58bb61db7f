"""Which boxes a watch leaves alone for a while: those that would be restored in full at each pass,
and to no other end than at the last one.
"""

import time
from collections.abc import Callable

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import ReplicationError
from edge_store.fleet.find import FoundBox
from edge_store.fleet.report import BoxReport, Flag, How
from edge_store.ids import DeviceId
from edge_store.result import Record

__all__ = ["Waits"]

WAIT_S, WAIT_MAX_S = 60.0, 3600.0  # 1, 2, 4 … min


class _Wait(Record, frozen=True, kw_only=True):
    """``ends`` on the monotonic clock. ``box``: as it was found when this was its ``report``."""

    box: FoundBox
    report: BoxReport
    seconds: float
    ends: float


class Waits:
    """Of one watch, from pass to pass. A head that was put anew ends a wait; a good pull the row of
    them. A store that does not answer is no reason: to ask it costs little.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits: dict[DeviceId, _Wait] = {}

    def still(self, box: FoundBox) -> BoxReport | None:
        """What is to be said of a box that is not to be pulled now: what was, at no cost."""
        wait = self._waits.get(box.device_id)
        if wait is None or self._clock() >= wait.ends or _version(box) != _version(wait.box):
            return None
        return msgspec.structs.replace(
            wait.report,
            how=wait.report.how and How.UNCHANGED,
            because=None,
            downloaded_bytes=0,
            kept=None,
            is_continued=False,
            forgotten=0,
            evicted=(),
            removed=None,
            attempts=0,
            seconds=0.0,
        )

    def note(self, box: FoundBox, report: BoxReport) -> BoxReport:
        """Take in how a pull has ended; with when the next one is."""
        if report.code == ReplicationError.code:
            return report
        before = self._waits.pop(box.device_id, None)
        if not _is_in_vain(box, report):
            return report
        seconds = min(WAIT_MAX_S, 2 * before.seconds) if before else WAIT_S
        report = msgspec.structs.replace(report, next_at=now_ms() + round(1000 * seconds))
        self._waits[box.device_id] = _Wait(
            box=box, report=report, seconds=seconds, ends=self._clock() + seconds
        )
        return report


def _is_in_vain(box: FoundBox, report: BoxReport) -> bool:
    is_headless = box.head is None or Flag.HEAD_UNREADABLE in report.flags
    return report.error is not None or (is_headless and report.how is How.RESTORED)


def _version(box: FoundBox) -> tuple[str, str | None]:
    return str(box.location), box.head.version if box.head else None
