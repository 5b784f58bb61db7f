"""Asks one line until its outcome is final, with pauses between the attempts."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import msgspec

from edge_store.config import QueueSection
from edge_store.errors import EdgeStoreError, RequestError, ShutDown, StoreError
from edge_store.loggers import get_logger
from edge_store.queue.entries import line_standing, refuse_line, request_standing
from edge_store.queue.lines import LineState, Standing
from edge_store.queue.places import Place
from edge_store.recorder.caller import Caller, Origin
from edge_store.recorder.failure import may_succeed_later
from edge_store.recorder.redacting import Redacting
from edge_store.sqlite import DatabaseThread

__all__ = ["Answered", "Ask", "Asking", "Change", "Entry"]

log = get_logger(__name__)

PAUSE_S_MAX = 60.0


class Answered(Protocol):
    """A whole answer: see ``api/inside.py``."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


Ask = Callable[[str, bytes, Caller, Origin], Awaitable[Answered]]
Change = Callable[..., Awaitable[Any]]


class Entry(NamedTuple):
    """A line of a batch, or a queued request (without ``custom_id``).

    ``body`` reads the body, which is empty where it was forgotten meanwhile. ``origin`` is that of
    its attempts. Its ``place`` is taken already when it comes here.
    """

    endpoint: str
    caller: Caller
    origin: Origin
    place: Place
    body: Callable[[], Awaitable[bytes]]

    @property
    def name(self) -> tuple[str, str | None]:
        """The batch and the line."""
        assert self.origin.batch_id is not None
        return self.origin.batch_id, self.origin.custom_id


class Outcome(Enum):
    """What came of one attempt."""

    COMPLETED = auto()
    REFUSED = auto()
    FAILED = auto()  # and may not the next time
    NOT_ADMITTED = auto()
    UNKNOWN = auto()  # only the database can tell: a stream, or a COMMIT that took too long


FINAL = {Outcome.COMPLETED: LineState.COMPLETED, Outcome.REFUSED: LineState.REFUSED}


class Asking:
    """Holds what an attempt needs."""

    def __init__(
        self,
        *,
        ask: Ask,
        change: Change,
        reader: DatabaseThread,
        redacting: Redacting,
        config: QueueSection,
        engine_failed: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._change = change
        self._reader = reader
        self._redacting = redacting
        self._config = config
        self._engine_failed = engine_failed

    async def settle(self, entry: Entry, attempts: int, *, is_first: bool) -> LineState:
        """Ask until the outcome is final.

        Cancelling cuts it; then it is asked again another time.
        """
        tries = attempts
        while True:
            tries += 1
            outcome = await self._attempt(entry, attempts)
            if outcome in FINAL:
                return FINAL[outcome]
            if outcome is Outcome.FAILED:
                attempts += 1
                if attempts >= self._config.attempts_max:
                    batch_id, custom_id = entry.name
                    log.warning(
                        "line_dead", batch_id=batch_id, custom_id=custom_id, attempts=attempts
                    )
                    return LineState.DEAD
            for pause_s in (0.0, self._pause_s(tries), None):
                if pause_s is None:  # a disk that stalls lets nothing start: by then it goes again
                    await entry.place.take(first=is_first)
                else:
                    await asyncio.sleep(pause_s)
                if outcome is Outcome.UNKNOWN:
                    standing = await self.standing(entry, attempts)
                    if standing.state.is_settled:
                        entry.place.give()
                        return standing.state
                    attempts = standing.attempts

    def _pause_s(self, tries: int) -> float:
        pause_s = min(self._config.retry_pause_s * 2.0 ** min(tries - 1, 16), PAUSE_S_MAX)
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311  (no secret)

    async def standing(self, entry: Entry, attempts: int = 0) -> Standing:
        """What the database says; nothing new while it cannot be read."""
        batch_id, custom_id = entry.name
        bound = self._config.attempts_max
        try:
            if custom_id is None:
                return await self._reader.run(request_standing, batch_id, bound)
            return await self._reader.run(line_standing, batch_id, custom_id, bound)
        except StoreError as exc:
            log.error("queue_not_read", code=exc.code, error=str(exc))
            return Standing(LineState.WAITING, attempts)

    async def _attempt(self, entry: Entry, attempts: int) -> Outcome:
        left = self._config.attempts_max - attempts - 1
        origin = entry.origin
        if origin.result_id is not None:
            origin = msgspec.structs.replace(origin, attempts_left=max(left, 0))
        was_admitted = False
        try:
            body = await entry.body()
            if not body:
                return Outcome.REFUSED
            answer = await self._ask(entry.endpoint, body, entry.caller, origin)
            was_admitted = True
        except EdgeStoreError as exc:
            if not isinstance(exc, RequestError) or may_succeed_later(exc.http_status, exc.code):
                return Outcome.NOT_ADMITTED
            return await self._refuse(entry, exc)
        except OSError as exc:
            log.error("line_not_read", error=str(exc))
            return Outcome.NOT_ADMITTED
        finally:
            entry.place.give(was_admitted=was_admitted)
        return self._outcome(answer)

    async def _refuse(self, entry: Entry, error: RequestError) -> Outcome:
        """Write down what no result tells."""
        message = await self._redacting.text(str(error))
        try:
            await self._change(refuse_line, *entry.name, (error.http_status, error.code, message))
        except StoreError:
            return Outcome.NOT_ADMITTED
        return Outcome.REFUSED

    def _outcome(self, answer: Answered) -> Outcome:
        if answer.headers.get("x-edge-store-durability") != "committed":
            return Outcome.UNKNOWN
        if answer.status == 200:
            return Outcome.COMPLETED
        code = _code(answer.body)
        if code == ShutDown.code:
            return Outcome.NOT_ADMITTED  # a cut is no attempt
        if not may_succeed_later(answer.status, code):
            return Outcome.REFUSED
        self._engine_failed()
        return Outcome.FAILED


def _code(body: bytes) -> str:
    """The stable code of an error of ours; of the engine's own there is none."""
    try:
        return str(msgspec.json.decode(body)["error"]["code"])
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return ""
