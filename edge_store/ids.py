"""Identifiers: results and boots are UUIDv7 (ordered by time), devices are short random names.

The time in a result's id is what tells its boot when its row is nowhere, so it must be true: ids of
one millisecond are told apart by a counter (RFC 9562, section 6.2, method 1), where the package
``uuid6`` takes a millisecond of the future for each. Python 3.14 has such a ``uuid.uuid7``.
"""

import secrets
import threading
import time
from typing import NewType

__all__ = [
    "NO_DEVICES",
    "RESPONSE_PREFIX",
    "BootId",
    "DeviceId",
    "ResultId",
    "Uuid7",
    "new_boot_id",
    "new_device_id",
    "new_result_id",
]

ResultId = NewType("ResultId", str)
BootId = NewType("BootId", str)
DeviceId = NewType("DeviceId", str)
NO_DEVICES = frozenset({"check", "heads"})  # folders beside those of the boxes in a store

RESPONSE_PREFIX = "resp_"  # before a result's id: the id of the response that it is the result of
DEVICE_ID_BYTES = 5  # 2**40 names: two of 10,000 boxes collide once in 20,000 fleets
COUNTER_BITS = 12  # of `rand_a`: 4096 ids a millisecond before the next one is taken
RANDOM_BITS = 62
VERSION_AND_VARIANT = 0x7 << 76 | 0b10 << RANDOM_BITS


class Uuid7:
    """Makes UUIDv7s: each sorts after the one before, whatever the clock does. Any thread may call.

    A clock that steps back is not followed until it is past the newest id again: until then 4096
    ids take one millisecond.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ticks = 0  # Unix milliseconds, and the counter behind them

    def __call__(self) -> str:
        with self._lock:
            now = time.time_ns() // 1_000_000 << COUNTER_BITS
            self._ticks = ticks = max(now, self._ticks + 1)
        at_ms, count = ticks >> COUNTER_BITS, ticks & (1 << COUNTER_BITS) - 1
        number = at_ms << 80 | count << 64 | VERSION_AND_VARIANT | secrets.randbits(RANDOM_BITS)
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_uuid7 = Uuid7()


def new_result_id() -> ResultId:
    """A UUIDv7: later ids of one process sort after earlier ones, whatever the clock does."""
    return ResultId(_uuid7())


def new_boot_id() -> BootId:
    """A UUIDv7 for one start of the daemon."""
    return BootId(_uuid7())


def new_device_id() -> DeviceId:
    """A name for a box, made once by ``edge-store init``."""
    return DeviceId(f"box-{secrets.token_hex(DEVICE_ID_BYTES)}")
