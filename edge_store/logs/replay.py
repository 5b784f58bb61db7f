"""A stored request sent again: the same bytes to the same route, as a new request of its own.

What names the first one stays behind: its id, its Idempotency-Key, its trace. A response's stored
body is the chat that the engine was asked, with all that came before it; so it is sent as one, and
nothing is added to a conversation.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from edge_store.errors import EdgeStoreError, NotFound
from edge_store.recorder.envelope import EVENT_STREAM, JSON_LINES
from edge_store.recorder.transcript import Dialect, Garbled, Reader
from edge_store.recorder.transcript.ndjson import LineSplitter
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.result import Output, Record, Result

if TYPE_CHECKING:
    import httpx

__all__ = ["Replayed", "route_of", "send"]

RESPONSES, CHATS = "/v1/responses", "/v1/chat/completions"
PROBLEM_CHARS = 500
KEY_HINT = "give an API key of this box: --key, or EDGE_STORE_API_KEY in the environment"


class Replayed(Record, frozen=True, kw_only=True):
    """What came back. ``id``: of the new result, where the server says one."""

    id: str | None
    outputs: tuple[Output, ...]
    is_stream: bool


def route_of(result: Result) -> str:
    """Where it is to be sent.

    Raises:
        NotFound: its request is not stored as it was sent.
    """
    if not result.content.request_body:
        raise NotFound(
            f"the request of {result.id!r} is not stored, so it cannot be sent again",
            hint="it was recorded without its body, or retention has expired that",
        )
    if result.privacy is not None:
        raise NotFound(
            f"the request of {result.id!r} is not stored as it was sent: {result.privacy}",
            hint="what redaction took out is nowhere",
        )
    return CHATS if result.endpoint == RESPONSES else result.endpoint


def send(client: "httpx.Client", result: Result, dialect: Dialect) -> Replayed:
    """Send it, and read the answer as the recorder would.

    Raises:
        NotFound: see ``route_of``.
        EdgeStoreError: it was refused, or what came is no answer in its protocol.
    """
    route, body = route_of(result), result.content.request_body
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    answer = client.post(route, content=body, headers=headers)
    if answer.is_error:
        raise EdgeStoreError(
            f"{answer.url} answered {answer.status_code}: {_problem(answer)}",
            hint=KEY_HINT if answer.status_code == HTTPStatus.UNAUTHORIZED else "",
        )
    reader = dialect.reader(dialect.ask(msgspec.json.decode(body)))
    kind = answer.headers.get("content-type", "").partition(";")[0].encode()
    is_stream = kind in (EVENT_STREAM, JSON_LINES)
    try:
        if is_stream:
            _read_stream(reader, kind, answer.content)
        else:
            reader.body(answer.content)
    except Garbled as exc:
        raise EdgeStoreError(f"{answer.url} sent {exc}") from exc
    reading = reader.reading()
    if reading.error_message is not None:
        raise EdgeStoreError(f"{answer.url} failed midway: {reading.error_message}")
    return Replayed(
        id=answer.headers.get("x-edge-store-id"), outputs=reading.outputs, is_stream=is_stream
    )


def _read_stream(reader: Reader, kind: bytes, body: bytes) -> None:
    splitter = LineSplitter() if kind == JSON_LINES else EventSplitter()
    for event in (*splitter.feed(body), *splitter.end()):
        data = splitter.data_of(event)
        if data is not None:
            reader.event(data)


def _problem(answer: "httpx.Response") -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:PROBLEM_CHARS]
