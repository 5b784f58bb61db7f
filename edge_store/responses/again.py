"""What a response was answered with, for who sends its ``Idempotency-Key`` again: the same bytes,
made anew from what is stored by the code that made them first. Plain functions of a connection.
"""

import msgspec

from edge_store.recorder.caller import EVERYBODY
from edge_store.recorder.envelope import EVENT_STREAM, OpenAIEnvelope, answer_kind
from edge_store.recorder.idempotency import RESPONSES, Name, Stored, find_stored
from edge_store.recorder.transcript.sse import EventSplitter
from edge_store.responses.ask import Ask, read_ask
from edge_store.responses.objects import ResponseStatus
from edge_store.responses.shown import replayed, waiting_object, whole_object
from edge_store.responses.store import Found, find
from edge_store.result import Receipt
from edge_store.sqlite import Connection

__all__ = ["find_answer"]


def find_answer(connection: Connection, name: Name, since: int) -> Stored | None:
    """As ``find_stored``, with the answer of a response. Of one in the background that was asked
    for as a stream it is what a plain one is answered with: its events may not have come yet.
    """
    stored = find_stored(connection, name, since)
    if stored is None or stored.endpoint != RESPONSES:
        return stored
    found = find(connection, stored.receipt.id, EVERYBODY)  # the key is its tenant's
    if found is None:  # deleted between the two looks
        return None
    ask, receipt = read_ask(found.kept.request), stored.receipt
    if found.recorded is not None:
        receipt = Receipt(id=receipt.id, seq=found.recorded.seq, committed_at=receipt.committed_at)
    body = _bytes(found, ask, receipt)
    return msgspec.structs.replace(stored, receipt=receipt, is_stream=ask.stream, body=body)


def _bytes(found: Found, ask: Ask, receipt: Receipt) -> bytes | None:
    if found.kept.background:
        return msgspec.json.encode(waiting_object(found.kept, ask, ResponseStatus.QUEUED))
    if found.recorded is None:
        return None
    chat = found.recorded.result.content.response_body
    if not chat:
        return None
    if not ask.stream:
        return msgspec.json.encode(whole_object(found))
    events = replayed(found)
    if answer_kind(OpenAIEnvelope(), chat, is_stream=True) == EVENT_STREAM:
        splitter = EventSplitter()  # it knows how the engine ends a line
        splitter.feed(chat)
        events.insert(-1, splitter.comment(f"committed id={receipt.id} seq={receipt.seq}"))
    return b"".join(events)
