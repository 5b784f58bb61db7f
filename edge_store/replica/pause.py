"""A pause of replication that an operator asked for. It has an end, and outlives the daemon."""

from pathlib import Path

import msgspec

from edge_store.clock import now_ms
from edge_store.result import Record

__all__ = ["PAUSE_S_MAX", "Pause"]

PAUSE_S_MAX = 7 * 24 * 3600.0


class Paused(Record, frozen=True, kw_only=True):
    """The file. Both are UTC ms."""

    since: int
    until: int


class Pause:
    """Kept in ``replica-pause.json`` beside the database. A file that is not understood is none."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name("replica-pause.json")
        self._paused = self._read()

    @property
    def now(self) -> Paused | None:
        """The one that holds now. A clock that was set back does not make one last longer than the
        longest that can be asked for.
        """
        paused, now = self._paused, now_ms()
        if paused is None or not now < paused.until <= now + 1000 * PAUSE_S_MAX:
            return None
        return paused

    def begin(self, for_s: float) -> int:
        """From now for ``for_s``; returns its end (UTC ms).

        Raises:
            OSError: it cannot be kept.
        """
        assert 0 < for_s <= PAUSE_S_MAX
        now, before = now_ms(), self.now
        paused = Paused(since=before.since if before else now, until=now + round(1000 * for_s))
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_bytes(msgspec.json.encode(paused))
        new.replace(self._path)
        self._paused = paused
        return paused.until

    def end(self) -> None:
        """Now.

        Raises:
            OSError: it would be there again after a restart.
        """
        self._path.unlink(missing_ok=True)
        self._paused = None

    def _read(self) -> Paused | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Paused)
        except (OSError, msgspec.DecodeError):
            return None
