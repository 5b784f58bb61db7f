"""``python -m edge_store.bench.client``: one process of the load that an engine is put under.

Reads an ``Order`` from each line of standard input and answers with the line of an ``Outcome``, so
that a load of several processes costs their start once. A connection is a protocol over bytes: it
looks for the end of an answer and for little else, because what the client spends is hidden in
every latency that it measures.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import msgspec
import uvloop

from edge_store.bench.order import DRAIN_TIMEOUT_S, Mode, Order, Outcome, request_bytes

__all__ = ["carry_out"]

FAILURES_SHOWN = 3
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
ID_HEADER = b"\r\nx-edge-store-id: "
REFUSALS = (b"HTTP/1.1 503", b"HTTP/1.1 429")
FINISHED = b'"finish_reason":"'  # clients stop reading a stream here: null until the last choice


class Tally:
    """What the connections of one order have seen so far."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.numbers: Iterator[int] = iter(range(order.first_number, sys.maxsize))
        self.latencies_s: list[float] = []
        self.ttfts_s: list[float] = []
        self.tokens = 0
        self.acknowledged: list[str] = []
        self.unanswered = 0
        self.failures: list[str] = []
        self.refused = [0] * max(1, len(order.tenants))
        self.answers = [0] * max(1, len(order.tenants))

    def streams(self, number: int) -> bool:
        """Whether this request asks for a stream."""
        mode = self.order.mode
        return mode is Mode.STREAMED or (mode is Mode.MIXED and number % 2 == 1)


class Caller(asyncio.Protocol):
    """One keep-alive connection with one request under way, until the order's time is over.

    A caller with a tenant that is told to come again does so, on a new connection if need be.
    """

    def __init__(self, tally: Tally, left: Callable[[], None], tenant: int | None = None) -> None:
        self._tally = tally
        self._left = left
        self._tenant = tenant
        self._comes_again_at: float | None = None
        self._transport: asyncio.WriteTransport
        self._is_asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        every_s = self._tally.order.every_s
        self._ask_in(random.uniform(0, every_s))  # noqa: S311  (no secret)

    def _ask_in(self, pause_s: float) -> None:
        if pause_s > 0:
            asyncio.get_running_loop().call_later(pause_s, self._ask_or_leave)
        else:
            self._ask_or_leave()

    def _ask_or_leave(self) -> None:
        if time.monotonic() < self._tally.order.ends_at:
            self._ask()
        else:
            self._comes_again_at = None
            self._transport.close()

    def _ask(self) -> None:
        self._comes_again_at = None
        if self._transport.is_closing():  # it was closed during the pause: that comes to its end
            return
        number = next(self._tally.numbers)
        self._is_stream = self._tally.streams(number)
        self._buffer = bytearray()
        self._body_at = 0  # 0: the head is not whole yet
        self._length: int | None = None  # None: chunked
        self._first_at: float | None = None
        self._is_asking = True
        request = request_bytes(number, stream=self._is_stream, tenant=self._tenant)
        self._began_at = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._body_at and not self._read_head():
            return
        if self._length is not None:
            if len(buffer) >= self._body_at + self._length:
                self._done()
            return
        if self._first_at is None and buffer.find(b"data: ", self._body_at) >= 0:
            self._first_at = time.monotonic()
        if buffer.endswith(END_OF_CHUNKS):
            self._done()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        _, found, length = bytes(self._buffer[:end]).lower().partition(b"\r\ncontent-length:")
        self._length = int(length.split(b"\r\n", 1)[0]) if found else None
        return True

    def _done(self) -> None:
        now = time.monotonic()
        tally, order = self._tally, self._tally.order
        self._is_asking = False
        if self._tenant is not None and self._buffer.startswith(REFUSALS):
            self._refused(now)
            return
        if not self._buffer.startswith(b"HTTP/1.1 200") or (
            self._is_stream and FINISHED not in self._buffer
        ):
            tally.failures.append(self._buffer[:600].decode(errors="replace"))
            self._transport.close()
            return
        self._acknowledge()
        if order.begins_at <= now <= order.ends_at:
            tally.latencies_s.append(now - self._began_at)
            tally.answers[self._tenant or 0] += 1
            tally.tokens += self._completion_tokens()
            if self._is_stream and self._first_at is not None:
                tally.ttfts_s.append(self._first_at - self._began_at)
        due_at = self._began_at + order.every_s * random.uniform(0.5, 1.5)  # noqa: S311  (no secret)
        self._ask_in(due_at - now)

    def _refused(self, now: float) -> None:
        order, head = self._tally.order, bytes(self._buffer[: self._body_at]).lower()
        if order.begins_at <= now <= order.ends_at:
            self._tally.refused[self._tenant or 0] += 1
        pause_s = float(head.partition(b"\r\nretry-after:")[2].split(b"\r\n", 1)[0])
        pause_s *= random.uniform(1.0, 1.5)  # noqa: S311  (not all at once)
        if now + pause_s >= order.ends_at:
            self._transport.close()
            return
        self._comes_again_at = now + pause_s
        if b"\r\nconnection: close" not in head:
            asyncio.get_running_loop().call_later(pause_s, self._ask)

    async def _come_again(self, at: float) -> None:
        """On a new connection; the server has closed the old one."""
        await asyncio.sleep(at - time.monotonic())
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self._tally.order.port)
        except OSError as exc:
            self._tally.failures.append(f"no connection: {exc}")
            self._left()

    def _acknowledge(self) -> None:
        at = self._buffer.find(ID_HEADER, 0, self._body_at)
        if at >= 0:
            begin = at + len(ID_HEADER)
            end = self._buffer.find(b"\r\n", begin)
            self._tally.acknowledged.append(self._buffer[begin:end].decode())

    def _completion_tokens(self) -> int:
        at = self._buffer.rfind(b'"completion_tokens":', self._body_at)
        digits = bytes(self._buffer[at + 20 : at + 28]).strip() if at >= 0 else b"0"
        return int(digits[: len(digits) - len(digits.lstrip(b"0123456789"))] or b"0")

    def abort(self) -> None:
        """Break the connection off."""
        self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._is_asking:  # the server is gone: what was seen of a finish was an answer
            if self._is_stream and FINISHED in self._buffer[self._body_at :]:
                self._acknowledge()
            else:
                self._tally.unanswered += 1
        elif self._comes_again_at is not None:
            self._coming = asyncio.ensure_future(self._come_again(self._comes_again_at))
            return
        self._left()


async def carry_out(order: Order) -> Outcome:
    """Open the connections, and wait until each has left."""
    loop = asyncio.get_running_loop()
    tally = Tally(order)
    began_at, began_cpu = time.monotonic(), time.process_time()
    leaving: list[asyncio.Future[None]] = []
    callers = []
    tenants = [tenant for tenant, number in enumerate(order.tenants) for _ in range(number)]
    for at in range(order.connections):
        left: asyncio.Future[None] = loop.create_future()
        leaving.append(left)
        caller = Caller(tally, partial(_resolve, left), tenants[at] if tenants else None)
        await loop.create_connection(partial(_itself, caller), "127.0.0.1", order.port)
        callers.append(caller)
    timeout_s = order.ends_at + DRAIN_TIMEOUT_S - time.monotonic()
    _, late = await asyncio.wait(leaving, timeout=timeout_s)
    if late:
        tally.failures.append(f"{len(late)} requests had no answer {DRAIN_TIMEOUT_S:g} s after")
        for caller in callers:
            caller.abort()
    return Outcome(
        latencies_s=tally.latencies_s,
        ttfts_s=tally.ttfts_s,
        tokens=tally.tokens,
        acknowledged=tally.acknowledged,
        unanswered=tally.unanswered,
        failures=len(tally.failures),
        messages=tally.failures[:FAILURES_SHOWN],
        refused=tally.refused,
        answers=tally.answers,
        cpu_s=time.process_time() - began_cpu,
        wall_s=time.monotonic() - began_at,
    )


def _itself(caller: Caller) -> Caller:
    return caller


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def main() -> None:
    """Say that it is there with an empty line, then carry out orders until standard input ends."""
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin.buffer:
            outcome = runner.run(carry_out(msgspec.json.decode(line, type=Order)))
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
