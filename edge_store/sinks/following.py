"""Follows the results for one sink, and hands each to it at least once, in the order of ``seq``.

What is taken is remembered in the database at most every few seconds, after it was taken: what was
taken since is sent again after a crash. One batch is in hand, no more; the database is read on the
sinks' own connection, and nothing here is ever waited for by a request.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from edge_store.clock import now_ms
from edge_store.config import SinkBegin, SinkSection
from edge_store.errors import ConfigError, EdgeStoreError, SinkFailed, SinkRefused
from edge_store.loggers import get_logger
from edge_store.recorder.around import Around
from edge_store.result import IMPORTED
from edge_store.sinks.orders import (
    LETTERS_MAX,
    Refusal,
    Standing,
    begin_sink,
    save_sink,
    settle_letter,
)
from edge_store.sinks.reading import look, next_events, read_again, resent
from edge_store.sinks.sink import Event, Sink, unreached
from edge_store.sqlite import DatabaseThread

__all__ = ["Follower", "Trouble"]

log = get_logger(__name__)

GATHER_S = 0.1  # between two reads: a COMMIT may come each millisecond
SAVE_EVERY_S = 5.0  # each is a COMMIT, and so a page or two for the replica
SAVE_IDLE_S = 60.0  # while only what is not wanted passes
LOOK_EVERY_S = 5.0  # for what an operator has changed
RETRY_MAX_S = 300.0
RETRY_AFTER_MAX_S = 3600.0
FULL = (
    f"{LETTERS_MAX} results were refused: no more are sent until those are sent again or dropped "
    "(`edge-store sinks retry`, `sinks skip --letters`)"
)
GRACE_S = 1.0  # of what a sink itself may take beyond its deadline


class OrderedError(Exception):
    """An operator has changed where it is."""


class Trouble:
    """What is wrong with any of the sinks, as the two alarms say it."""

    def __init__(self, tell: Callable[["Trouble"], None]) -> None:
        self.behind: dict[str, str] = {}
        self.letters: dict[str, int] = {}
        self._tell = tell

    def note(self, name: str, behind: str, letters: int) -> None:
        """Of one: why it is behind for too long, else empty; and how many it has refused."""
        self.behind.pop(name, None)
        self.letters.pop(name, None)
        if behind:
            self.behind[name] = behind
        if letters:
            self.letters[name] = letters
        self._tell(self)


class Follower:
    """One sink. ``make`` gives one that is not open."""

    def __init__(
        self,
        config: SinkSection,
        around: Around,
        reader: DatabaseThread,
        trouble: Trouble,
        make: Callable[[], Sink],
    ) -> None:
        self._config, self._around, self._reader = config, around, reader
        self._trouble, self._make = trouble, make
        self._sink: Sink | None = None
        self._now: Standing
        self._saved: Standing
        self._saved_at = -SAVE_IDLE_S
        self._failures = 0
        self._gone = 0  # of what is in hand: deleted since

    async def run(self) -> None:
        """Until the daemon stops. Ends by cancellation, too."""
        await self._begin()
        try:
            while not await self._has_followed():
                await self._resume()
        finally:
            await self._close()
            with suppress(EdgeStoreError, OrderedError):  # the writer has ended
                await self._save()

    async def _has_followed(self) -> bool:
        """To the end; false where an operator has set it elsewhere."""
        try:
            await self._follow()
        except OrderedError:
            return False
        return True

    async def _begin(self) -> None:
        is_from_beginning = self._config.begin is SinkBegin.BEGINNING
        self._now = self._saved = await self._around.change(
            begin_sink, self._config.name, is_from_beginning
        )

    async def _resume(self) -> None:
        """As an operator has set it; what was taken and is not written yet stays taken."""
        before, saved = self._now, self._saved
        await self._begin()
        if self._saved.seq == saved.seq:
            self._change(
                seq=before.seq, timeline=before.timeline,
                delivered=before.delivered, skipped=before.skipped,
            )  # fmt: skip

    async def _follow(self) -> None:
        loop, commits = asyncio.get_running_loop(), self._around.commits
        while True:
            began = loop.time()
            await self._send_letters()
            page = await self._reader.run(next_events, self._config, self._now.seq)
            self._gone = page.gone
            if page.events:
                await self._pass_on(page.events)
            self._change(
                seq=page.upto, timeline=page.timeline, skipped=self._now.skipped + self._gone
            )
            is_behind = page.has_more and page.events
            self._measure(self._waits_since(page.events[-1]) if is_behind else None)
            await self._save_sometimes()
            if page.has_more:
                continue
            if commits.is_over:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await commits.past(page.upto)
                    if not commits.is_over:
                        await asyncio.sleep(began + GATHER_S - loop.time())

    async def _pass_on(self, events: Sequence[Event]) -> None:
        """Those that are refused become dead letters."""
        last = events[-1].recorded
        while self._now.letters >= LETTERS_MAX:
            await self._failed(SinkFailed(FULL), events[0])
            events = await self._still_there(events)
            if not events:
                return
        refused = await self._taken(events)
        if refused:
            self._change(
                seq=last.seq, timeline=last.timeline, letters=self._now.letters + len(refused)
            )
            log.warning("sink_refused", sink=self._config.name, results=len(refused))
            await self._save(refused)

    async def _taken(self, events: Sequence[Event]) -> tuple[Refusal, ...]:
        """Deliver and count until each is taken, refused or deleted; those that are refused, and
        why.
        """
        while events:
            try:
                await self._deliver(events)
            except SinkRefused as exc:
                if len(events) > 1:
                    parts = [await self._taken([event]) for event in events]
                    return tuple(refusal for part in parts for refusal in part)
                (event,) = events
                return (Refusal(seq=event.recorded.seq, id=event.result.id, error=str(exc)),)
            except (SinkFailed, ConfigError, OSError, TimeoutError) as exc:
                await self._failed(exc, events[0])
                events = await self._still_there(events)
            else:
                self._count(len(events))
                break
        return ()

    async def _still_there(self, events: Sequence[Event]) -> Sequence[Event]:
        """Them as they are stored now. A sink may be away for days: what is forgotten meanwhile is
        not sent.
        """
        left = await self._reader.run(read_again, events)
        self._gone += len(events) - len(left)
        return left

    async def _deliver(self, events: Sequence[Event]) -> None:
        async with asyncio.timeout(self._config.timeout_s + GRACE_S):
            if self._sink is None:
                self._sink = self._make()
                await self._sink.open()
            await self._sink.deliver(events)
        if self._failures or self._now.failure:
            log.info("sink_recovered", sink=self._config.name, failures=self._failures)
            self._failures = 0
            self._change(failure=None, failing_since=None)

    async def _failed(self, exc: Exception, first: Event) -> None:
        """Wait for the next attempt. Raises ``OrderedError``."""
        await self._close()
        self._failures += 1
        self._around.metrics.sink_failures.labels(self._config.name).inc()
        said = _said(exc, self._config.timeout_s)
        if said != self._now.failure:
            log.warning("sink_failed", sink=self._config.name, error=said)
            since = self._now.failing_since or now_ms()
            self._change(failure=said, failing_since=since)
            await self._save()
        pause = min(self._config.pause_s * 2 ** min(self._failures - 1, 20), RETRY_MAX_S)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
        asked = exc.after_s if isinstance(exc, SinkFailed) else 0.0
        await self._pause(max(pause, min(asked, RETRY_AFTER_MAX_S)), first)

    async def _pause(self, seconds: float, first: Event) -> None:
        ends_at = asyncio.get_running_loop().time() + seconds
        while True:
            left = ends_at - asyncio.get_running_loop().time()
            self._measure(self._waits_since(first))
            if left <= 0:
                return
            await asyncio.sleep(min(left, LOOK_EVERY_S))
            looked = await self._reader.run(look, self._config.name)
            if looked.standing is None or looked.standing.orders != self._now.orders:
                raise OrderedError

    async def _send_letters(self) -> None:
        """Look for what an operator has changed, and send again what is to be.

        Raises:
            OrderedError: it is to go on from elsewhere.
        """
        looked = await self._reader.run(look, self._config.name)
        if looked.standing is None or looked.standing.orders != self._now.orders:
            raise OrderedError
        for letter in looked.letters:
            event = await self._reader.run(resent, letter, has_bodies=self._config.bodies)
            self._gone = int(event is None)
            refused = () if event is None else await self._taken([event])
            self._change(skipped=self._now.skipped + self._gone)
            error = refused[0].error if refused else None
            await self._around.change(settle_letter, letter.letter_no, error)
            if error is None:
                self._change(letters=self._now.letters - 1)

    def _count(self, delivered: int) -> None:
        self._change(delivered=self._now.delivered + delivered)
        self._around.metrics.sink_delivered.labels(self._config.name).inc(delivered)

    def _change(self, **fields: object) -> None:
        self._now = msgspec.structs.replace(self._now, **fields)

    async def _save_sometimes(self) -> None:
        since = asyncio.get_running_loop().time() - self._saved_at
        has_delivered = self._now.delivered != self._saved.delivered
        has_changed = has_delivered or self._now.failure != self._saved.failure
        if since > (SAVE_EVERY_S if has_changed else SAVE_IDLE_S) and self._now != self._saved:
            await self._save()

    async def _save(self, refused: tuple[Refusal, ...] = ()) -> None:
        """Raises ``OrderedError``."""
        if self._now == self._saved and not refused:
            return
        self._saved_at = asyncio.get_running_loop().time()
        if not await self._around.change(save_sink, self._now, refused):
            raise OrderedError
        self._saved = self._now

    def _waits_since(self, event: Event) -> int:
        """UTC ms. What was imported was completed long before it came."""
        if event.result.engine.startswith(IMPORTED):
            return self._now.failing_since or now_ms()
        return event.result.completed_at

    def _measure(self, waits_since: int | None) -> None:
        """Tell how far behind it is. ``waits_since``: from when on what is in hand waits."""
        name, metrics = self._config.name, self._around.metrics
        lag_s = max(0.0, (now_ms() - waits_since) / 1000) if waits_since is not None else 0.0
        behind = max(0, self._around.commits.seq - self._now.seq) if waits_since is not None else 0
        metrics.sink_results_behind.labels(name).set(behind)
        metrics.sink_lag_seconds.labels(name).set(lag_s)
        metrics.sink_letters.labels(name).set(self._now.letters)
        why = self._now.failure or "it takes them slowly"
        said = f"{name}: {behind} results, for {lag_s:.0f} s: {why}"
        self._trouble.note(name, said * (lag_s > self._config.behind_s), self._now.letters)

    async def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                async with asyncio.timeout(GRACE_S):
                    await sink.close()
            except Exception as exc:  # noqa: BLE001  (a foreign library's, of what is given up)
                log.debug("sink_not_closed", sink=self._config.name, error=type(exc).__name__)


def _said(exc: Exception, timeout_s: float) -> str:
    """Without anything that a library may have put into its words: an address, a value."""
    match exc:
        case EdgeStoreError():
            return f"{exc}; {exc.hint}" if exc.hint else str(exc)
        case TimeoutError():
            return f"it did not take them within {timeout_s:g} s"
        case OSError():
            return f"it is not reached: {unreached(exc)}"
    return type(exc).__name__
