"""A large answer of a route of ours counts among ``recorder.bytes_max`` until it is sent, as those
do that the recorder gives: who asks for many and takes them slowly must not fill the memory.
"""

from collections.abc import Awaitable, Callable

from edge_store.engine import ASGIMessage, Send
from edge_store.errors import Overloaded
from edge_store.recorder.slots import Slots

__all__ = ["Counted"]

COUNTED_BYTES = 256 * 1024  # what is smaller is not worth it
PIECE_BYTES = 64 * 1024  # the server takes the next one when the last has left

Refuse = Callable[[Overloaded], Awaitable[None]]


class Counted:
    """The ``send`` of a route of ours. An answer begins with its first body: where there is no room
    for that, ``refuse`` answers instead. What comes in several pieces is not counted.
    """

    def __init__(self, send: Send, slots: Slots, tenant: str | None, refuse: Refuse) -> None:
        self._send = send
        self._slots = slots
        self._tenant = tenant
        self._refuse = refuse
        self._start: ASGIMessage | None = None

    async def __call__(self, message: ASGIMessage) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, start = message.get("body", b""), self._start
        if start is None or message.get("more_body", False) or len(body) < COUNTED_BYTES:
            if start is not None:
                self._start = None
                await self._send(start)
            await self._send(message)
            return
        with self._slots.hold(self._tenant) as hold:
            try:
                self._slots.grow(hold, len(body))
            except Overloaded as exc:
                await self._refuse(exc)
                return
            await self._send(start)
            for begin in range(0, len(body), PIECE_BYTES):
                piece = body[begin : begin + PIECE_BYTES]
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
