"""A response whose caller waits for it: its chat is answered, its result committed, then its own
row, and only then the end of the answer leaves.
"""

from collections.abc import MutableMapping
from contextlib import ExitStack

import msgspec

from edge_store.api.means import Means
from edge_store.api.turn import Turn, origin_of_turn
from edge_store.blobs import taken_out
from edge_store.engine import ASGIMessage, Receive, Scope, Send
from edge_store.errors import EdgeStoreError
from edge_store.recorder.envelope import EVENT_STREAM
from edge_store.responses.ask import Ask, left_of
from edge_store.responses.chat import PATH as CHAT
from edge_store.responses.objects import Failure, failure_of
from edge_store.responses.shown import opening
from edge_store.responses.store import Kept, keep, read_result
from edge_store.result import Recorded

__all__ = ["Answering", "Running"]

# of a plain chat's answer; a response's is as long as it is
FRAMING = (b"content-length", b"transfer-encoding", b"content-type")
# what of the caller's own headers goes with the chat
PASSED = (b"traceparent", b"x-edge-store-record")

Running = MutableMapping[str, tuple[Kept, Ask]]


class Answering:
    """Answers one request, as an ASGI application. ``running`` has it while it does, and it leaves
    ``held`` when it has.
    """

    def __init__(
        self,
        means: Means,
        running: Running,
        kept: Kept,
        ask: Ask,
        chat: bytes,
        held: ExitStack,
    ) -> None:
        self._held = held
        self._means = means
        self._running = running
        self._kept = kept
        self._ask = ask
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        turn = Turn(self._kept, self._ask)

        async def take(message: ASGIMessage) -> None:
            events = turn.take(message)
            if message["type"] == "http.response.start" and turn.is_stream:
                await self._begin(turn, send)
            elif events:
                joined = b"".join(events)
                await send({"type": "http.response.body", "body": joined, "more_body": True})

        passed = [header for header in scope["headers"] if header[0] in PASSED]
        self._running[self._kept.id] = self._kept, self._ask
        try:
            wait_s = self._means.waits.asked(scope)
            origin = origin_of_turn(self._kept, passed)
            await self._means.inside.stream(
                CHAT, self._chat, take, self._kept.caller, origin, receive
            )
            await self._finish(turn, send, wait_s, receive)
        finally:
            self._leave()

    def _leave(self) -> None:
        """It is kept, or failed: the next one of its conversation may begin."""
        self._running.pop(self._kept.id, None)
        self._held.close()

    async def _begin(self, turn: Turn, send: Send) -> None:
        headers = [h for h in turn.headers if h[0].lower() not in FRAMING]
        headers.append((b"content-type", EVENT_STREAM + b"; charset=utf-8"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = b"".join(opening(turn.number, self._kept, self._ask))
        await send({"type": "http.response.body", "body": first, "more_body": True})

    async def _finish(self, turn: Turn, send: Send, wait_s: float | None, receive: Receive) -> None:
        if turn.http_status == 0:  # the caller left before there was anything to tell it
            return
        if turn.http_status != 200:  # the error is the answer
            await _answer(send, turn.http_status, turn.headers, turn.body)
            return
        failure = turn.failure
        if turn.is_stream and failure is not None and not turn.committed:
            await _end(send, _error_event(turn, failure))
            return
        try:
            recorded = await self._kept_now()
        except EdgeStoreError as exc:
            if not turn.is_stream:
                raise
            await _end(send, _error_event(turn, failure_of(exc)))
            return
        if wait_s is not None and failure is None:  # for its own row, too, so not for a seq
            self._leave()
            tenant = self._kept.caller.tenant
            turn.waited(await self._means.waits.until(None, tenant, wait_s, receive))
        if self._ask.stream and not turn.is_stream:  # the engine answered in one piece
            await self._begin(turn, send)
        shown, events = turn.close(recorded)
        if self._ask.stream:
            await _end(send, b"".join([*events[:-1], turn.committed, events[-1]]))
        else:
            headers = [h for h in turn.headers if h[0].lower() not in FRAMING]
            headers.append((b"content-type", b"application/json"))
            await _answer(send, 200, headers, msgspec.json.encode(shown))

    async def _kept_now(self) -> Recorded | None:
        """Its result's row, once the response is kept, if it is to be."""
        if self._ask.store:
            sent = self._kept.request
            redacted = await self._means.redacting.body(sent)
            left = sent if redacted is sent else left_of(redacted, self._ask)
            row = msgspec.structs.replace(self._kept, request=left)
            await taken_out(row, left)
            recorded: Recorded | None = await self._means.change(keep, row)
            return recorded
        return await self._means.reader.run(read_result, self._kept.id, with_content=False)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [h for h in headers if h[0].lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await _end(send, body)


async def _end(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _error_event(turn: Turn, failure: Failure) -> bytes:
    """What a stream ends with when its result is not committed: no end of a response."""
    said = {"code": failure.code, "message": failure.message, "param": None}
    return turn.number({"type": "error", **said})
