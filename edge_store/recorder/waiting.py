"""What the writer has before it: results that wait, and the transaction that is under way."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import msgspec

from edge_store.config import RecorderSection
from edge_store.errors import EdgeStoreError
from edge_store.recorder.slots import Slot
from edge_store.result import Receipt, Result

__all__ = ["Attempt", "Settled", "Waiting", "first_of"]

Settled = Callable[[Receipt | EdgeStoreError], None]


class Waiting(msgspec.Struct, frozen=True):
    """A result in the queue. It leaves when it is settled: committed, or given up."""

    result: Result
    slot: Slot | None
    future: asyncio.Future[Receipt]
    since: float  # monotonic
    settled: Settled | None

    def answer(self, outcome: Receipt | EdgeStoreError) -> None:
        """Tell the caller, unless it knows already or has left."""
        if self.future.done():
            return
        if isinstance(outcome, Receipt):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)
            self.future.exception()  # a caller that has left is not an unseen error


def first_of(queue: Iterable[Waiting], config: RecorderSection) -> tuple[Waiting, ...]:
    """What one COMMIT carries: the first, and what waits behind it up to the bounds of rows and
    bytes.
    """
    room = config.batch_bytes_max
    batch: list[Waiting] = []
    for waiting in islice(queue, config.batch_rows_max):
        content = waiting.result.content
        room -= len(content.request_body) + len(content.response_body)
        if batch and room < 0:
            break
        batch.append(waiting)
    return tuple(batch)


class Attempt(NamedTuple):
    """A transaction handed to the thread."""

    batch: tuple[Waiting, ...]
    admitted_upto: int
    losses: int
