"""The wall clock in the unit of the tables, and whether the kernel believes it is right."""

import ctypes
import time
from datetime import UTC, datetime
from functools import cache

__all__ = ["ClockSync", "is_clock_synced", "now_ms", "rfc3339", "utc_text"]

STA_UNSYNC = 0x0040  # linux/timex.h
TIMEX_BYTES = 208  # sizeof(struct timex) on 64-bit Linux
TIMEX_STATUS_OFFSET = 40  # modes, offset, freq, maxerror, esterror, then int status


def now_ms() -> int:
    """UTC, in milliseconds since 1970. May step; durations come from the monotonic clock."""
    return time.time_ns() // 1_000_000


def rfc3339(milliseconds: int) -> str:
    """UTC milliseconds as text: 2026-01-31T08:00:00.000Z. A time that no calendar has is its
    number, as by ``utc_text``.
    """
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds}ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_text(milliseconds: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    """For people. A time that no calendar has, as a box may write it, is its number: 9…9ms."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds}ms"
    return moment.strftime(form)


def is_clock_synced() -> bool:
    """Whether the kernel's clock is disciplined by NTP, PTP or the like (adjtimex(2))."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES)
    if _library().adjtimex(timex) < 0:
        return False
    status = int.from_bytes(timex.raw[TIMEX_STATUS_OFFSET : TIMEX_STATUS_OFFSET + 4], "little")
    return not status & STA_UNSYNC


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)  # the C library: 50 µs, and a request asks


class ClockSync:
    """Whether the kernel's clock was synced by now. Once it was it stays so: it is slewed then, and
    stays right for long where its sources are away.
    """

    def __init__(self, *, was_synced: bool) -> None:
        self._was_synced = was_synced

    def __call__(self) -> bool:
        """Asked before a moment is stamped, it tells whether that is right."""
        self._was_synced = self._was_synced or is_clock_synced()
        return self._was_synced
