"""What the rules of size have looked through in vain, because all of it is pinned, held or needed:
it is not looked through again until one of these changes, however often the file is too large.
"""

from typing import Any, NamedTuple

from edge_store.recorder.deletions import What
from edge_store.retention.choice import Kept
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["Standstill", "Stays"]


class Stays(NamedTuple):
    """How many results stay, and why."""

    pinned: int = 0
    held: int = 0
    needed: int = 0

    def plus(self, kept: Kept) -> "Stays":
        """With these, too."""
        return Stays(*(before + len(more) for before, more in zip(self, kept, strict=True)))


class Standstill:
    """Kept from pass to pass. Results that come later are always looked at. ``stays``: of all that
    were looked through.
    """

    def __init__(self) -> None:
        self._keepers: tuple[Any, ...] | None = None
        self._annotated = 0  # the newest annotation by then
        self._after = dict.fromkeys(What, 0)
        self.stays = Stays()

    def look(self, connection: Connection) -> None:
        """Forget what was found, where something has been unpinned, released or ended since."""
        with translated("what keeps results cannot be read"):
            *keepers, annotated, has_pins = connection.execute(
                sql("select_keepers"), {"after": self._annotated}
            ).fetchone()
        if tuple(keepers) != self._keepers or has_pins:
            self._after = dict.fromkeys(What, 0)
            self.stays = Stays()
        self._keepers, self._annotated = tuple(keepers), annotated

    def after(self, what: What) -> int:
        """Nothing of that kind may go up to this seq."""
        return self._after[what]

    def note(self, what: What, seq: int) -> None:
        """All up to ``seq`` was looked through, and nothing of it may go."""
        self._after[what] = max(self._after[what], seq)

    def is_all(self, seq: int) -> bool:
        """Whether nothing may go at all, where ``seq`` is the newest that might."""
        return min(self._after.values()) >= seq
