"""Large answers of our own routes are counted while they are sent, and refused where none fits."""

from edge_store.api.counted import COUNTED_BYTES, Counted
from edge_store.config import RecorderSection
from edge_store.engine import ASGIMessage
from edge_store.errors import Overloaded
from edge_store.recorder.slots import Slots

START: ASGIMessage = {"type": "http.response.start", "status": 200, "headers": []}
BOUND = 1024 * 1024


class Sent:
    """What left, and how much was held meanwhile."""

    def __init__(self, bound: int = BOUND) -> None:
        self.slots = Slots(RecorderSection(bytes_max=bound))
        self.messages: list[ASGIMessage] = []
        self.held: list[int] = []
        self.refused: list[Overloaded] = []
        self.send = Counted(self._take, self.slots, "a", self._refuse)

    async def _take(self, message: ASGIMessage) -> None:
        self.messages.append(message)
        self.held.append(self.slots.held_bytes)

    async def _refuse(self, error: Overloaded) -> None:
        self.refused.append(error)

    async def answer(self, body: bytes, *, more: bool = False) -> None:
        await self.send(START)
        await self.send({"type": "http.response.body", "body": body, "more_body": more})


async def test_a_large_answer_leaves_in_pieces_and_counts_until_the_last() -> None:
    sent, body = Sent(), bytes(range(256)) * 2048
    await sent.answer(body)
    assert sent.messages[0] is START
    assert b"".join(message["body"] for message in sent.messages[1:]) == body
    assert sent.messages[-1]["more_body"] is False
    assert all(message["more_body"] for message in sent.messages[1:-1])
    assert set(sent.held) == {len(body)}
    assert sent.slots.held_bytes == 0


async def test_an_answer_without_room_is_refused_before_it_begins() -> None:
    sent = Sent()
    await sent.answer(bytes(BOUND))
    assert (sent.messages, len(sent.refused)) == ([], 1)
    assert sent.slots.held_bytes == 0


async def test_small_answers_and_streams_are_passed_on_as_they_come() -> None:
    for body, more in ((bytes(COUNTED_BYTES - 1), False), (bytes(BOUND), True)):
        sent = Sent()
        await sent.answer(body, more=more)
        assert [message.get("body") for message in sent.messages] == [None, body]
        assert set(sent.held) == {0}
