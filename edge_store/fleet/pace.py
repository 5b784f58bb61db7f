"""How fast the pulls of a process may download, all of them together."""

import threading
import time
from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """At most ``bytes_per_s``, on average from the first byte on. For any thread."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        assert bytes_per_s > 0
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._ended = threading.Event()

    def due_s(self, count: int) -> float:
        """Take the time of ``count`` bytes that have arrived: after so many seconds is it over."""
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            return self._free_at - now

    def wait(self, count: int) -> None:
        """Block this thread as long as ``count`` bytes may take, or until ``end``."""
        self._ended.wait(self.due_s(count))

    def end(self) -> None:
        """Let everybody go who waits: nothing more is downloaded."""
        self._ended.set()
