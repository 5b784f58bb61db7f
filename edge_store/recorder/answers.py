"""The answers that are under way: their bytes are counted among those that ``Slots`` shares out.

Where there is no room for more of an answer, the largest that runs for the same tenant is cut, and
its bytes are given back at that moment, so that one cut is enough and the others go on. Its row
says ``no_room_for_answer`` and has the text that had come, not the bytes.

Why it is not made to wait until there is room: then all could wait for each other, each with what
the others need; and an engine in this process goes on collecting what nobody takes from it. No more
is admitted long before: a request is held to the same bound. Runs on the event loop.
"""

from edge_store.errors import EdgeStoreError, NoRoomForAnswer, Overloaded
from edge_store.recorder.exchange import Exchange
from edge_store.recorder.slots import Hold, Slots

__all__ = ["Answers"]


class Answers:
    """Each exchange that runs, and the hold of its request."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._holds: dict[Exchange, Hold] = {}

    def begin(self, exchange: Exchange, hold: Hold) -> None:
        """The answer of ``exchange`` is counted by ``hold`` from now on."""
        self._holds[exchange] = hold

    def end(self, exchange: Exchange) -> None:
        """It grows no more. What it has counts until its hold is given back."""
        self._holds.pop(exchange, None)

    def grow(self, exchange: Exchange, size: int) -> None:
        """Count ``size`` more bytes of an answer.

        Raises:
            NoRoomForAnswer: there is no room for them, and no larger answer; it is dropped.
        """
        hold = self._holds[exchange]
        while True:
            try:
                self._slots.grow(hold, size)
            except Overloaded as exc:
                error = NoRoomForAnswer(f"no room for more of this answer: {exc}", hint=exc.hint)
                largest = self._largest(exchange, hold)
                self._slots.shrink(self._holds[largest], largest.counted_bytes)
                largest.drop(error)
                if largest is exchange:
                    raise error from None
            else:
                return

    def _largest(self, exchange: Exchange, hold: Hold) -> Exchange:
        """Of the tenant's answers; ``exchange`` if no other is larger."""
        found = exchange
        for other, its_hold in self._holds.items():
            if its_hold.party is hold.party and other.is_running:
                found = max(found, other, key=lambda each: each.counted_bytes)
        return found

    def cut_all(self, cause: EdgeStoreError) -> None:
        """Cut every answer under way."""
        for exchange in tuple(self._holds):
            exchange.cut(cause)
