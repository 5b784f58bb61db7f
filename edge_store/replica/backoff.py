"""How long until something that did not help is tried once more."""

from typing import Final

__all__ = ["Backoff"]


class Backoff:
    """Pauses of ``least_s``, twice that, and so on up to ``most_s``; from the start again once
    the newest has been over for ``most_s``.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s: Final = least_s
        self._most_s: Final = most_s
        self.reset()

    def reset(self) -> None:
        """The next one is the shortest."""
        self._pause_s = 0.0
        self._ends_at = 0.0

    def begin(self, now: float) -> float:
        """The next pause, in seconds. ``now`` is monotonic."""
        if now >= self._ends_at + self._most_s:
            self.reset()
        self._pause_s = min(max(self._least_s, 2 * self._pause_s), self._most_s)
        self._ends_at = now + self._pause_s
        return self._pause_s
