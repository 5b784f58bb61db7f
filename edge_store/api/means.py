"""What responses are made with, and which conversations have one under way."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from edge_store.api.inside import Inside
from edge_store.errors import EdgeStoreError
from edge_store.queue.held import Held
from edge_store.readers import Reader
from edge_store.recorder.idempotency import Claim, Stored
from edge_store.recorder.redacting import Redacting
from edge_store.recorder.waits import Waits
from edge_store.responses.conversations import read_context
from edge_store.responses.store import Kept

__all__ = ["Locks", "Means"]


class Means(NamedTuple):
    """What responses are made with."""

    inside: Inside
    reader: Reader
    change: Callable[..., Awaitable[Any]]
    body_bytes_max: int
    waiting_max: int
    redacting: Redacting
    held: Held
    refusal: Callable[[], EdgeStoreError | None]  # why nothing is admitted now
    claim: Callable[..., Awaitable[Claim | Stored]]  # of an Idempotency-Key
    waits: Waits  # for the replica

    async def context(self, kept: Kept) -> list[Any]:
        """What came before the response. Raises ``NotFound``, ``InvalidRequest``."""
        if kept.conversation_id is None and kept.previous_id is None:
            return []
        return await self.reader.run(
            read_context,
            kept.conversation_id,
            kept.previous_id,
            kept.caller,
            self.body_bytes_max,
        )


class Locks:
    """Which conversations have a response that has not ended: the next one would not see it."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def is_held(self, conversation_id: str | None) -> bool:
        """Whether another response is under way there."""
        return conversation_id is not None and self._held[conversation_id] > 0

    def take(self, conversation_id: str | None) -> None:
        """Begin a response there; nothing for one in no conversation."""
        if conversation_id is not None:
            self._held[conversation_id] += 1

    def give(self, conversation_id: str | None) -> None:
        """It has ended."""
        if conversation_id is not None:
            self._held[conversation_id] -= 1
            if not self._held[conversation_id]:
                del self._held[conversation_id]
