"""Identifiers: results and boots are UUIDv7 (ordered by time), devices are short random names.

The time in a result's id is what tells its boot when its row is nowhere, so it must be true: ids of
one millisecond are told apart by a counter (RFC 9562, section 6.2, method 1), where the package
``uuid6`` takes a millisecond of the future for each. Python 3.14 has such a ``uuid.uuid7``.
"""

import os
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
VARIANT = {digit: "89ab"[n % 4] for n, digit in enumerate("0123456789abcdef")}


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
            ticks = time.time_ns() // 1_000_000 << COUNTER_BITS
            if ticks <= self._ticks:
                ticks = self._ticks + 1
            self._ticks = ticks
        head, tail = f"{ticks:015x}", os.urandom(8).hex()
        return f"{head[:8]}-{head[8:12]}-7{head[12:]}-{VARIANT[tail[0]]}{tail[1:4]}-{tail[4:]}"


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
