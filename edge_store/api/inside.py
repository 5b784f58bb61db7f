"""Requests that the daemon makes in somebody's name: the lines of a batch, the turns of a response.

They go the way of a request that came over HTTP, behind the gate: the same slots, the same rows,
the same errors. Nothing of the engine is reached past the recorder, and nothing in the name of a
key that is over by now.
"""

import asyncio
from typing import NamedTuple

from edge_store.api.routes import GENERATING
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.recorder.app import Recorder
from edge_store.recorder.caller import (
    NO_ORIGIN,
    Caller,
    Origin,
    ShutOut,
    from_origin,
    nobody_is,
    with_caller,
)

__all__ = ["Answered", "Inside"]


class Answered(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Inside:
    """Asks the recorder. ``shut_out`` says why a caller may not ask any more."""

    def __init__(self, recorder: Recorder, shut_out: ShutOut = nobody_is) -> None:
        self._recorder = recorder
        self._shut_out = shut_out

    async def ask(
        self, path: str, body: bytes, caller: Caller, origin: Origin = NO_ORIGIN
    ) -> Answered:
        """The whole answer of a generating route to ``body``.

        Cancelling cuts the generation, and what had come is recorded.

        Raises:
            Unauthorized: its key is over. What was accepted without a key is asked on a box that
                has keys by now, too: nobody has taken it back.
            EdgeStoreError: nothing was admitted.
        """
        status, headers, pieces = 0, {}, []

        async def send(message: ASGIMessage) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
            else:
                pieces.append(message.get("body", b""))

        await self.stream(path, body, send, caller, origin)
        return Answered(status, headers, b"".join(pieces))

    async def stream(
        self,
        path: str,
        body: bytes,
        send: Send,
        caller: Caller,
        origin: Origin = NO_ORIGIN,
        receive: Receive | None = None,
    ) -> None:
        """Ask, and let ``send`` have the answer's ASGI messages as they come. As ``ask`` else.

        ``receive`` tells when the caller has left; its ``cause``, an error, is recorded.
        """
        if caller.key_id is not None and (refusal := self._shut_out(caller)) is not None:
            raise refusal
        headers = [(b"content-type", b"application/json"), *origin.headers]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": None,
            "server": None,
        }
        from_origin(with_caller(scope, caller), origin)
        slots = self._recorder.slots
        with slots.hold(caller.tenant) as hold:
            slots.grow(hold, len(body))
            await self._recorder.record(
                GENERATING[path], scope, body, receive or _nothing_more, send, hold
            )


async def _nothing_more() -> ASGIMessage:
    """The ``receive`` of a caller that stays until it is cancelled."""
    never: asyncio.Future[ASGIMessage] = asyncio.get_running_loop().create_future()
    return await never
