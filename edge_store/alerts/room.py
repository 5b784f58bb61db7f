"""Tells alarms to people: decides what is due, keeps it, and has it sent; entered by the daemon.

Everything here waits for the world in tasks of its own, with a deadline, and the sending is done by
child processes: nothing of it is in the way of a request. A stop kills what is being sent; it is
sent after the next start. Only a daemon that ends by a failure waits a moment, to say so: it may
be its last start. Without URLs nobody is told, and what is raised is still kept over a restart.
"""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from edge_store.alerts.alarms import AlarmName, Alarms
from edge_store.alerts.child import send_all
from edge_store.alerts.messages import Kind, Message, due, recalled, wording
from edge_store.alerts.quiet import QuietHours
from edge_store.alerts.sender import Letter, Outcome
from edge_store.alerts.spool import NAME, Spool
from edge_store.clock import now_ms
from edge_store.config import AlertsSection, read_secrets
from edge_store.errors import Corrupt, EngineError, NotAnEdgeStoreFile
from edge_store.loggers import get_logger
from edge_store.result import Record

__all__ = [
    "Alerting",
    "Target",
    "TargetState",
    "Tried",
    "alert_urls",
    "alerting",
    "opened",
    "try_urls",
]

log = get_logger(__name__)

CREDENTIAL, VARIABLE = "alert-urls", "EDGE_STORE_ALERT_URLS"
URLS_MAX = 32
LOOK_EVERY_S = 5.0  # for what becomes due by time alone
RETRY_MIN_S, RETRY_MAX_S = 5.0, 600.0
LETTERS_MAX = 16  # of one child
LAST_WORDS_S = 30.0  # loading apprise takes ten on a busy box
ONCE_S = 120.0


class TargetState(Record, frozen=True, kw_only=True):
    """One of those who are told. Its URL is a secret: ``label`` is its place and its scheme."""

    label: str
    waiting: int
    failure: str | None


class Tried(Record, frozen=True, kw_only=True):
    """What came of a test message."""

    label: str
    service: str
    failure: str | None


class Target:
    """One URL. ``key`` is what the spool knows it by."""

    def __init__(self, number: int, url: str) -> None:
        self.url = url
        self.label = label_of(number, url)
        # Slow on purpose: the file must not help anybody to guess a password.
        key = hashlib.scrypt(url.encode(), salt=b"edge-store alerts", n=2**14, r=8, p=1, dklen=5)
        self.key = key.hex()
        self.failure: str | None = None


class Alerting:
    """``run`` tells until it is cancelled; then ``last_words`` may."""

    def __init__(
        self,
        alarms: Alarms,
        spool: Spool,
        targets: tuple[Target, ...],
        config: AlertsSection,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._alarms = alarms
        self._spool = spool
        self._targets = targets
        self._config = config
        self._quiet = QuietHours(config)
        self._clock = clock
        self._disk = ThreadPoolExecutor(1, "alerts")  # one step after the other
        self._changed = asyncio.Event()
        self._written = {target.key: asyncio.Event() for target in targets}
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._changed.set)

        alarms.changed = changed

    async def try_all(self) -> list[Tried]:
        """Send a test message to everybody."""
        urls = tuple(target.url for target in self._targets)
        return await try_urls(urls, self._alarms.device or socket.gethostname())

    @property
    def state(self) -> tuple[TargetState, ...]:
        """Of each target."""
        return tuple(
            TargetState(
                label=target.label,
                waiting=len(self._spool.pending(target.key)),
                failure=target.failure,
            )
            for target in self._targets
        )

    async def run(self) -> None:
        """Tell what is due. Ends by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            for target in self._targets:
                tasks.create_task(self._tell(target))
            while True:
                self._changed.clear()
                await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._changed.wait()

    async def look(self, again: Collection[AlarmName] = ()) -> None:
        """Put what is due into the spool. Of those ``again`` there is more to tell."""
        found = due(
            self._alarms.active,
            self._alarms.ended,
            self._spool.told,
            self._config,
            self._clock(),
            again,
        )
        for each in found:
            self._spool.add(each, self._alarms.device or socket.gethostname())
        if self._spool.end_unheard(self._alarms.ended) or found:
            await self._persist()
            for event in self._written.values():
                event.set()

    async def _persist(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._spool.write, self._spool.take())

    async def close(self) -> None:
        """Let another process have the spool."""
        await asyncio.get_running_loop().run_in_executor(self._disk, self._spool.close)
        self._disk.shutdown()

    async def last_words(self) -> None:
        """Tell what is urgent to everybody at once, each once; bounded. ``run`` has ended.

        What is not told in time is on the disk: cut short, a write that waits for its thread would
        never be done, and ``close`` waits for it anyway.
        """
        await self.look()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._send_to(
                    target
                    for target in self._targets
                    if any(message.alarm.is_urgent for message in self._ready(target))
                )

    async def tell_once(self, again: Collection[AlarmName]) -> None:
        """Instead of ``run``: tell what is due to everybody, each once; bounded. What is not taken
        waits for the next time.
        """
        await self.look(again)
        with suppress(TimeoutError):
            async with asyncio.timeout(ONCE_S):
                await self._send_to(target for target in self._targets if self._ready(target))

    async def _send_to(self, targets: Iterable[Target]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for target in targets:
                tasks.create_task(self._send(target))

    async def _tell(self, target: Target) -> None:
        retry_s = RETRY_MIN_S
        written = self._written[target.key]
        while True:
            written.clear()
            if not self._ready(target):
                with suppress(TimeoutError):  # what is not urgent waits for the end of quiet hours
                    async with asyncio.timeout(LOOK_EVERY_S if self._waits(target) else None):
                        await written.wait()
            elif await self._send(target):
                retry_s = RETRY_MIN_S
            else:
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)

    def _waits(self, target: Target) -> bool:
        return bool(self._spool.pending(target.key))

    def _ready(self, target: Target) -> list[Message]:
        """What it may be told now, in order."""
        pending = self._spool.pending(target.key)
        if self._quiet.holds(self._clock()):
            pending = [message for message in pending if message.alarm.is_urgent]
        return pending[:LETTERS_MAX]

    async def _send(self, target: Target) -> bool:
        """Whether all that was ready has been taken."""
        messages = self._ready(target)
        letters = tuple(letter_of(message, self._clock()) for message in messages)
        async with aclosing(send_all(target.url, letters)) as outcomes:
            async for outcome in outcomes:
                message = next(each for each in messages if each.id == outcome.id)
                if outcome.failure is not None:
                    self._failed(target, message, outcome)
                    return False
                self._spool.done(message.id, target.key)
                await self._persist()
                target.failure = None
                log.info(
                    "alert_delivered",
                    target=target.label,
                    alarm=message.alarm.value,
                    kind=message.kind.value,
                    after_ms=self._clock() - message.at,
                )
        return True

    def _failed(self, target: Target, message: Message, outcome: Outcome) -> None:
        if outcome.failure != target.failure:  # else it was said
            log.warning(
                "alert_not_delivered",
                target=target.label,
                alarm=message.alarm.value,
                kind=message.kind.value,
                error=outcome.failure,
            )
        target.failure = outcome.failure


def letter_of(message: Message, now: int) -> Letter:
    """A message in words."""
    title, body = wording(message, now)
    kind = "failure" if message.alarm.is_urgent else "warning"
    if message.kind is Kind.RESOLVED:
        kind = "success"
    return Letter(id=message.id, title=title, body=body, type=kind)


def label_of(number: int, url: str) -> str:
    """What a URL is called: nothing of it but its scheme is no secret."""
    scheme, found, _ = url.partition("://")
    is_scheme = found and scheme.isalnum() and len(scheme) <= 20
    return f"{number} {scheme if is_scheme else 'unreadable'}"


def alert_urls(config: AlertsSection) -> tuple[str, ...]:
    """Those that alarms go to.

    Raises:
        ConfigError: they cannot be read.
    """
    return read_secrets(CREDENTIAL, VARIABLE, config.urls_file)[:URLS_MAX]


async def try_urls(urls: tuple[str, ...], device: str) -> list[Tried]:
    """Send a test message to every URL at once."""
    letter = Letter(
        id=1,
        title=f"[{device}] test",
        body="A test by `edge-store alerts test`: alarms of this box come here.",
        type="info",
    )

    async def tried(number: int, url: str) -> Tried:
        async with aclosing(send_all(url, (letter,))) as outcomes:
            outcome = await anext(outcomes)
        label = label_of(number, url)
        return Tried(label=label, service=outcome.service, failure=outcome.failure)

    return await asyncio.gather(*(tried(number, url) for number, url in enumerate(urls, 1)))


async def opened(
    urls: tuple[str, ...], config: AlertsSection, path: Path, alarms: Alarms
) -> Alerting:
    """With the spool at ``path``; what is raised by that is raised again.

    Raises:
        BlockingIOError: another process has the spool.
    """
    targets = await asyncio.to_thread(
        lambda: tuple(Target(number, url) for number, url in enumerate(urls, 1))
    )
    spool = Spool(path, [target.key for target in targets])
    try:
        await asyncio.to_thread(spool.open)
    except BlockingIOError:
        raise
    except OSError as exc:
        log.error("alerts_not_spooled", path=str(path), error=str(exc))
    for message in spool.standing:
        alarms.recall(recalled(message))
    for message in spool.over:
        alarms.recall_end(message.alarm, message.at)
    return Alerting(alarms, spool, targets, config)


@asynccontextmanager
async def alerting(
    config: AlertsSection, database: Path, alarms: Alarms
) -> AsyncIterator[Alerting | None]:
    """Alarms are told meanwhile, if there is anybody to tell, and kept; a failure that ends the
    body is one. None where another process does that.

    Raises:
        ConfigError: the URLs cannot be read.
    """
    urls = alert_urls(config)
    try:
        told = await opened(urls, config, database.with_name(NAME), alarms)
    except BlockingIOError:  # another daemon of this box has it, and this one will not start
        yield None
        return
    task = asyncio.ensure_future(told.run())
    task.add_done_callback(_note_defect)
    try:
        with failures_raised(alarms):
            yield told
        await _ended(task)
        await told.look()
    except Exception:
        await _ended(task)
        await told.last_words()
        raise
    finally:
        await _ended(task)
        await told.close()


async def _ended(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _note_defect(task: asyncio.Future[None]) -> None:
    """Nobody waits for the task while the daemon runs."""
    if not task.cancelled() and (defect := task.exception()) is not None:
        log.error("alerts_ended", exc_info=defect)


@contextmanager
def failures_raised(alarms: Alarms) -> Iterator[None]:
    """What ends the daemon and needs a person is an alarm."""
    try:
        yield
    except Exception as exc:
        error: BaseException = exc
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        match error:
            case Corrupt() | NotAnEdgeStoreFile():
                alarms.raise_(AlarmName.CHAIN_BROKEN, str(error), code=error.code)
            case EngineError():
                alarms.raise_(AlarmName.ENGINE_DOWN, str(error), code=error.code)
        raise
