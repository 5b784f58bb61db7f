"""The clients of the tour: the unmodified ``openai`` SDK, alone and as many at a time.

An answer is acknowledged when its caller has seen its end: the whole body, or the chunk that
carries ``finish_reason``.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai

from edge_store.errors import EdgeStoreError
from edge_store.result import Record

__all__ = ["MODEL", "Answer", "Load", "asked", "connect", "load_until"]

TIMEOUT_S = 20.0
TURNS_MAX = 10_000  # of one client: far more than the load lasts
MODEL = "demo"


class Answer(Record, frozen=True, kw_only=True):
    """An acknowledged answer."""

    id: str
    text: str
    durability: str  # of the header x-edge-store-durability


class Load(Record, frozen=True, kw_only=True):
    """What came of many clients: the answers they saw whole, and the requests that had no end."""

    acknowledged: tuple[Answer, ...]
    unanswered: int


@contextmanager
def connect(url: str) -> Iterator[openai.OpenAI]:
    """The SDK as everyone has it, without retries: each request is counted.

    Raises:
        EdgeStoreError: a request failed that should not have.
    """
    with (
        openai.DefaultHttpxClient(trust_env=False) as http,
        openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S, http_client=http
        ) as client,
    ):
        try:
            yield client
        except openai.OpenAIError as exc:
            raise EdgeStoreError(f"a request failed: {type(exc).__name__}: {exc}") from exc


def asked(client: openai.OpenAI, prompt: str, *, stream: bool = False, **fields: Any) -> Answer:
    """Ask, and read the answer to its end.

    Raises:
        openai.OpenAIError: there was no whole answer.
    """
    create: Any = client.chat.completions.with_raw_response.create
    messages = [{"role": "user", "content": prompt}]
    raw = create(model=MODEL, messages=messages, stream=stream, **fields)
    durability = raw.headers.get("x-edge-store-durability", "unknown")
    answer = raw.parse()
    if not stream:
        text = answer.choices[0].message.content or ""
        return Answer(id=answer.id, text=text, durability=durability)
    pieces: list[str] = []
    with answer:
        for chunk in answer:
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                if choice.finish_reason is not None:
                    return Answer(id=chunk.id, text="".join(pieces), durability=durability)
    raise openai.APIConnectionError(
        message="the stream ended before its answer", request=raw.http_request
    )


def load_until(
    url: str, *, clients: int, seconds: float, delays_ms: Sequence[int], end: Callable[[], None]
) -> Load:
    """Let many clients ask, every second one streamed, and call ``end`` after so many seconds.

    ``end`` is expected to break every connection, and meets every client at work.

    Raises:
        EdgeStoreError: a request was refused, or failed before ``end``.
    """
    is_ending, is_over, failed = threading.Event(), threading.Event(), threading.Event()

    def ask_on(client: openai.OpenAI, number: int) -> tuple[list[Answer], int]:
        mine: list[Answer] = []
        for turn in range(TURNS_MAX):
            if is_over.is_set():
                break
            delay_ms = delays_ms[number % len(delays_ms)]
            prompt = f"Client {number}, question {turn} [demo:slow={delay_ms}]"
            try:
                mine.append(asked(client, prompt, stream=(number + turn) % 2 == 1))
            except openai.APIConnectionError:
                if not is_ending.is_set():
                    failed.set()
                    raise
                return mine, 1
            except openai.OpenAIError:
                failed.set()
                raise
        return mine, 0

    with connect(url) as client, ThreadPoolExecutor(clients) as pool:
        try:
            running = [pool.submit(ask_on, client, number) for number in range(clients)]
            failed.wait(seconds)
        finally:
            is_ending.set()
            try:
                end()
            finally:
                is_over.set()
        ended = [future.result() for future in running]
    return Load(
        acknowledged=tuple(answer for answers, _ in ended for answer in answers),
        unanswered=sum(unanswered for _, unanswered in ended),
    )
