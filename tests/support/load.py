"""Callers that go on, with plain and streamed chats in turn until they may leave or are refused."""

import asyncio
import itertools
import json
import threading
from types import TracebackType
from typing import Self

import httpx
from support.daemon import DEADLINE_S, until

__all__ = ["Load"]


class Load:
    """``connections`` callers in a thread. A caller has one request under way at most, and leaves
    at the first that is not answered.
    """

    def __init__(self, url: str, connections: int, prompt: str = "") -> None:
        self.acknowledged: dict[str, str] = {}  # id -> text, of each answer seen to its end
        self.received: dict[str, bytes] = {}  # id -> what the engine sent of it, up to that end
        self.sent = 0
        self.refused: list[httpx.Response] = []  # answered, but not with 200
        self.cut: list[str] = []  # ids of answers that had begun and did not end
        self.broken: list[str] = []  # no answer at all
        self._url = url
        self._connections = connections
        self._prompt = prompt
        self._numbers = itertools.count()
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
        self.leave()

    def leave(self) -> None:
        """Let each caller finish what it is at."""
        self._leaving = True
        self._thread.join(2 * DEADLINE_S)
        assert not self._thread.is_alive(), "a caller waits for ever"

    def wait_acknowledged(self, number: int) -> None:
        """Wait until so many answers were seen to their end."""
        until(
            lambda: len(self.acknowledged) >= number or not self._thread.is_alive(),
            f"{number} answers",
            3 * DEADLINE_S,
        )
        assert len(self.acknowledged) >= number, (self.refused, self.broken)

    async def _drive(self) -> None:
        limits = httpx.Limits(max_connections=self._connections)
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=DEADLINE_S, limits=limits) as client,
            asyncio.TaskGroup() as callers,
        ):
            for _ in range(self._connections):
                callers.create_task(self._call(client))

    async def _call(self, client: httpx.AsyncClient) -> None:
        while not self._leaving:
            number = next(self._numbers)
            body = {
                "model": "demo",
                "messages": [{"role": "user", "content": f"{self._prompt} {number}"}],
                "stream": number % 2 == 1,
            }
            self.sent += 1
            begun: str | None = None
            try:
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    if answer.status_code != 200:
                        await answer.aread()
                        self.refused.append(answer)
                        return
                    begun = answer.headers["x-edge-store-id"]
                    seen = await (_streamed(answer) if body["stream"] else _plain(answer))
            except httpx.HTTPError as exc:
                seen = None
                if begun is None:
                    self.broken.append(repr(exc))
                    return
            if seen is None:
                self.cut.append(begun)
                return
            self.acknowledged[begun], self.received[begun] = seen


async def _plain(answer: httpx.Response) -> tuple[str, bytes]:
    body = await answer.aread()
    return str(answer.json()["choices"][0]["message"]["content"]), body


async def _streamed(answer: httpx.Response) -> tuple[str, bytes] | None:
    """Text and bytes when its finish is seen, which is when clients stop reading; None without
    one. Comments are ours, not the engine's: they and the empty line behind them are left out.
    """
    text, body, is_comment = "", "", False
    async for line in answer.aiter_lines():
        is_comment = line.startswith(":") or (is_comment and not line)
        if not is_comment:
            body += f"{line}\n"
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            return None
        (choice,) = event["choices"]
        text += choice["delta"].get("content") or ""
        if choice["finish_reason"] is not None:
            return text, body.encode()
    return None
