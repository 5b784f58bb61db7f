"""Identifiers: results and boots are UUIDv7 (ordered by time), devices are short random names."""

import secrets
from typing import NewType

from uuid6 import uuid7

__all__ = ["BootId", "DeviceId", "ResultId", "new_boot_id", "new_device_id", "new_result_id"]

ResultId = NewType("ResultId", str)
BootId = NewType("BootId", str)
DeviceId = NewType("DeviceId", str)

DEVICE_ID_BYTES = 5  # 2**40 names: two of 10,000 boxes collide once in 20,000 fleets


def new_result_id() -> ResultId:
    """A UUIDv7: later ids of one process sort after earlier ones, whatever the clock does."""
    return ResultId(str(uuid7()))


def new_boot_id() -> BootId:
    """A UUIDv7 for one start of the daemon."""
    return BootId(str(uuid7()))


def new_device_id() -> DeviceId:
    """A name for a box, made once by ``edge-store init``."""
    return DeviceId(f"box-{secrets.token_hex(DEVICE_ID_BYTES)}")
