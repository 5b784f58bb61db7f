"""How late commits arrive in a replica, seen where it lies: a folder."""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

__all__ = ["arrivals", "lags"]

HEADER = struct.Struct(">4sIIIQQQ")  # magic, flags, page size, pages, first and last TXID, time
TIME_MS = 6


def arrivals(folder: Path) -> list[tuple[float, float]]:
    """Of each file of level 0: when what it holds was taken up, and when it arrived. UTC s."""
    found = []
    for path in folder.glob("*.ltx"):
        with path.open("rb") as file:
            header = HEADER.unpack(file.read(HEADER.size))
        assert header[0] == b"LTX1", path
        found.append((header[TIME_MS] / 1000, path.stat().st_ctime))
    return sorted(found)


def lags(committed: Sequence[float], arrived: Sequence[tuple[float, float]]) -> list[float]:
    """Of each commit that arrived, in seconds: it is in the first file that was begun after it.
    What came before the first file is left out: its own file may have been removed since.
    """
    taken_up = [at for at, _ in arrived]
    found = []
    for at in committed:
        place = bisect_right(taken_up, at)
        if 0 < place < len(arrived):
            found.append(arrived[place][1] - at)
    return found
