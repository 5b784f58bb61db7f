"""A response while its chat is answered: takes the chat's messages as the recorder sends them, and
gives the events and the object of the response.
"""

from typing import Any

import msgspec

from edge_store.engine import ASGIMessage
from edge_store.recorder.caller import Origin
from edge_store.recorder.envelope import EVENT_STREAM
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.responses.ask import Ask
from edge_store.responses.events import Outputs
from edge_store.responses.objects import (
    Failure,
    Numbered,
    ResponseStatus,
    response_object,
    status_of,
)
from edge_store.responses.store import Kept
from edge_store.result import NotReplicated, Recorded

__all__ = ["PATH", "Turn", "origin_of_turn"]

PATH = "/v1/responses"
COMMITTED, REPLICATED = b": committed", b": replicated"
DURABILITY = b"x-edge-store-durability"
Headers = list[tuple[bytes, bytes]]


def origin_of_turn(kept: Kept, headers: Headers | None = None) -> Origin:
    """Where the chat comes from. One in the background goes on after a stop."""
    return Origin(
        result_id=kept.id,
        endpoint=PATH,
        headers=tuple(headers or ()),
        attempts_left=0 if kept.background else None,
        conversation_id=kept.conversation_id,
        previous_id=kept.previous_id,
    )


class Turn:
    """``http_status`` is 0 until something has come."""

    def __init__(self, kept: Kept, ask: Ask) -> None:
        self.kept = kept
        self.ask = ask
        self.number = Numbered()
        self.http_status = 0
        self.headers: Headers = []
        self.is_stream = False
        self.committed = b""  # the comment that says so
        self._outputs = Outputs(kept.id)
        self._splitter = EventSplitter()
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """A plain answer, or an error."""
        return b"".join(self._pieces)

    @property
    def failure(self) -> Failure | None:
        """What the answer says went wrong."""
        error = self._outputs.error
        if self.http_status not in (0, 200):
            error = _error_in(self.body)
        if error is None:
            return None
        said = error if isinstance(error, dict) else {"message": str(error)}
        return Failure(
            code=str(said.get("code") or "engine_refused"),
            message=str(said.get("message") or ""),
            http_status=self.http_status if self.http_status >= 400 else 500,
        )

    def take(self, message: ASGIMessage) -> list[bytes]:
        """The events that a message completes."""
        if message["type"] == "http.response.start":
            self.http_status = message["status"]
            self.headers = list(message["headers"])
            kind = next((v for k, v in self.headers if k.lower() == b"content-type"), b"")
            self.is_stream = self.http_status == 200 and kind.startswith(EVENT_STREAM)
            return []
        body = message.get("body", b"")
        if not self.is_stream:
            self._pieces.append(body)
            return []
        events: list[bytes] = []
        for event in self._splitter.feed(body):
            data = self._splitter.data_of(event)
            if data is not None:
                events += [self.number(made) for made in self._outputs.chunk(data)]
            elif event.startswith(COMMITTED):
                self.committed = event
        return events

    def waited(self, why: NotReplicated | None) -> None:
        """Say what became of the wait for the replica, in the headers and in the comment."""
        if why is None:
            self.committed = self.committed.replace(COMMITTED, REPLICATED, 1)
            self.headers = [(k, b"replicated" if k == DURABILITY else v) for k, v in self.headers]
        else:
            said = f" not-replicated={why}\n\n".encode()
            self.committed = self.committed and self.committed.rstrip() + said
            self.headers.append((b"x-edge-store-not-replicated", why.encode()))

    def close(self, recorded: Recorded | None) -> tuple[dict[str, Any], list[bytes]]:
        """The object, and the events that remain; the last of them is the response's end.

        ``recorded`` is the row; None where nothing is recorded of the request.
        """
        events: list[bytes] = []
        if self.http_status == 200 and not self.is_stream:
            events += [self.number(made) for made in self._outputs.body(self.body)]
        failure = self.failure
        if recorded is not None:
            status = status_of(recorded.result)
        elif failure is not None:
            status = ResponseStatus.FAILED
        else:
            status = ResponseStatus.COMPLETED
        if status in (ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE):
            events += [self.number(made) for made in self._outputs.end()]
        self._outputs.cut()
        result = None if recorded is None else recorded.result
        failure = None if recorded is not None else failure
        output = self._outputs.items
        shown = response_object(self.kept, self.ask, status, output, result, failure)
        return shown, [*events, self.number.lifecycle(shown)]

    def without_result(self, status: ResponseStatus, failure: Failure | None) -> list[bytes]:
        """The end of a response that nothing was generated for, or whose answer is not stored."""
        shown = response_object(self.kept, self.ask, status, [], None, failure)
        return [self.number.lifecycle(shown)]


def _error_in(body: bytes) -> Any:
    """The ``error`` of an error's body, else its text."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")
    return value.get("error", value) if isinstance(value, dict) else value
