"""Callers that come again whatever happens to the daemon, at one rate; and one of them who asks how
far the replica is. Bytes on sockets: a client that costs more than the daemon would be the load.
"""

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from support.daemon import until

__all__ = ["Acknowledged", "Callers", "Confirmed"]

PAUSE_S = 0.05  # after what is no answer
LOOK_S = 0.2
WAITER_S = 0.3
WAIT = b"x-edge-store-wait: replicated; timeout=2\r\n"
ANSWER_S = 20.0
BEHIND_S = 1.0  # further behind the rate nothing is made up for
SPECIAL_EVERY = 40  # so many of the requests are of a user who will be forgotten


class Acknowledged(NamedTuple):
    """An answer that was seen to its end. ``user``: whose, when he may be forgotten."""

    id: str
    user: str | None


class Confirmed(NamedTuple):
    """Up to ``seq`` all is in the replica, said at ``at`` (UTC s)."""

    seq: int
    at: float


class Callers:
    """``connections`` callers in a thread; no request is made while ``port`` is None.

    One more asks for answers that are held until they are replicated. ``asked_s``: how long they
    have asked in all, whether somebody answered or not.
    """

    def __init__(self, connections: int, rate: float) -> None:
        self.acknowledged: dict[int, Acknowledged] = {}  # by seq
        self.confirmed: list[Confirmed] = []
        self.totals: Counter[str] = Counter()
        self.asked_s = 0.0
        self.port: int | None = None
        self.forgotten: set[str] = set()
        self._connections = connections
        self._every_s = 1 / rate
        self._due = self._began_at = time.monotonic()
        self._numbers = itertools.count()
        self._asks = threading.Event()
        self._under_way = 0
        self._user = "u-0"
        self._asked: Counter[str] = Counter()  # under way, by user
        self._users = threading.Lock()
        self._leaving = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = True
        self._asks.clear()
        self._thread.join(2 * ANSWER_S)

    def ask(self) -> None:
        """From now on."""
        if not self._asks.is_set():
            self._due = self._began_at = time.monotonic()
            self._asks.set()

    def rest(self) -> None:
        """Ask nothing more, and wait for the answers that are under way."""
        if self._asks.is_set():
            self._asks.clear()
            self.asked_s += time.monotonic() - self._began_at
        until(lambda: self._under_way == 0, "every caller is answered, or not")

    def change_user(self, name: str) -> str:
        """Have what is asked from now on be that one's. Returns whose it was, once nothing of his
        is under way.
        """
        with self._users:
            before, self._user = self._user, name
        until(lambda: not self._asked[before], f"nothing of {before} is under way")
        return before

    def begin_anew(self) -> None:
        """For another box."""
        self.port = None
        self.acknowledged, self.confirmed, self.forgotten = {}, [], set()

    @property
    def newest(self) -> int:
        """The newest seq that was acknowledged."""
        return max(self.acknowledged.copy(), default=0)

    def confirmed_by(self, at: float) -> int:
        """The seq up to which all was said, by then, to be in the replica."""
        return max((each.seq for each in self.confirmed.copy() if each.at <= at), default=0)

    async def _drive(self) -> None:
        async with asyncio.TaskGroup() as callers:
            callers.create_task(self._look())
            callers.create_task(self._call(waits=True))
            for _ in range(self._connections):
                callers.create_task(self._call())

    async def _call(self, *, waits: bool = False) -> None:
        connection = _Connection()
        while not self._leaving:
            if not (waits or self._asks.is_set()) or (port := self.port) is None:
                await asyncio.sleep(PAUSE_S)
                continue
            await asyncio.sleep(WAITER_S if waits else self._next_in_s())
            self._under_way += not waits
            try:
                await connection.lead_to(port)
                await self._chat(connection, waits=waits)
            except (OSError, EOFError, TimeoutError, ValueError):
                self.totals["broken"] += 1
                await connection.close()
                await asyncio.sleep(PAUSE_S)
            finally:
                self._under_way -= not waits
        await connection.close()

    def _next_in_s(self) -> float:
        now = time.monotonic()
        self._due = max(self._due + self._every_s, now - BEHIND_S)
        return self._due - now

    async def _chat(self, connection: "_Connection", *, waits: bool) -> None:
        number, user = next(self._numbers), None
        if number % SPECIAL_EVERY == 0:
            with self._users:
                user = self._user
                self._asked[user] += 1
        try:
            await self._chat_of(user, number, connection, waits=waits)
        finally:
            if user is not None:
                self._asked[user] -= 1

    async def _chat_of(
        self, user: str | None, number: int, connection: "_Connection", *, waits: bool
    ) -> None:
        acknowledged, confirmed = self.acknowledged, self.confirmed  # of this box
        body: dict[str, object] = {
            "model": "demo",
            "messages": [{"role": "user", "content": f"number {number}"}],
        }
        if user is not None:
            body["user"] = user
        status, headers, _ = await connection.ask(
            b"POST /v1/chat/completions", json.dumps(body), WAIT if waits else b""
        )
        if status != 200:
            self.totals[f"refused {status}"] += 1
            await asyncio.sleep(PAUSE_S)
            return
        seq = int(headers["x-edge-store-seq"])
        assert seq not in acknowledged, f"seq {seq} was given twice"
        acknowledged[seq] = Acknowledged(headers["x-edge-store-id"], user)
        self.totals["acknowledged"] += 1
        if headers["x-edge-store-durability"] == "replicated":
            self.totals["held until replicated"] += 1
            confirmed.append(Confirmed(seq, time.time()))

    async def _look(self) -> None:
        connection = _Connection()
        while not self._leaving:
            await asyncio.sleep(LOOK_S)
            if (port := self.port) is None:
                continue
            try:
                await connection.lead_to(port)
                _, _, body = await connection.ask(b"GET /readyz", "")
            except (OSError, EOFError, TimeoutError, ValueError):
                await connection.close()
                continue
            found = json.loads(body).get("replica") or {}
            if port == self.port and (confirmed := found.get("confirmed")):
                self.confirmed.append(Confirmed(confirmed["seq"], time.time()))
        await connection.close()


class _Connection:
    """One that is kept alive, with one request at a time."""

    def __init__(self) -> None:
        self._port = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def lead_to(self, port: int) -> None:
        """Connect, unless it leads there already."""
        if self._writer is not None and self._port == port:
            return
        await self.close()
        async with asyncio.timeout(ANSWER_S):
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._port = port

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None

    async def ask(
        self, line: bytes, body: str, more: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their small names, body."""
        content = body.encode()
        head = b"%s HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n" % line + more
        assert self._writer is not None
        async with asyncio.timeout(ANSWER_S):
            self._writer.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(content), content))
            status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(each.lower().split(": ", 1) for each in lines if each)
            length = int(headers["content-length"])
            return int(status.split()[1]), headers, await self._reader.readexactly(length)
