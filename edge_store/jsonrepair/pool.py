"""The repair workers as the daemon sees them: started early, killed at the deadline, replaced.

A worker is a process, because a thread that is inside a parser cannot be stopped. It gets an
environment of its own (no credentials), a session of its own (a terminal's Ctrl-C is not for it)
and no descriptor but its pipes. Runs on the event loop, which never parses more than a short text.
"""

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from edge_store.config import RepairSection
from edge_store.jsonrepair.protocol import (
    EXIT_MEMORY,
    LENGTH_BYTES,
    Assessed,
    Wanted,
    decode_answer,
    decode_redacted,
    encode_job,
    frame,
)
from edge_store.jsonrepair.strict import NotJson, parse, storable
from edge_store.loggers import get_logger
from edge_store.redaction import Job, Redacted
from edge_store.result import JsonState

__all__ = ["JsonWorkers", "unfinished"]

A = TypeVar("A")

log = get_logger(__name__)

INLINE_CHARACTERS_MAX = 16 * 1024  # strictly parsed on the loop: about 0.1 ms
QUEUE_DEADLINES = 15  # an answer waits for a worker at most this many times repair.deadline_s
START_TIMEOUT_S = 20.0  # a worker is ready after 0.3 s of CPU; the box may be busy
REAP_TIMEOUT_S = 5.0  # a killed process that stays longer hangs in the kernel
FRAME_SLACK_BYTES = 1 << 20  # an answer beside its JSON: logs of a few KiB
FRAME_GROWTH = 6  # of a text whose every character becomes an escape


class WorkerFailed(Exception):
    """A worker gave no answer, or only ``found``; the message goes into the row."""

    def __init__(self, message: str, found: Any = None) -> None:
        super().__init__(message)
        self.found = found


class JsonWorkers:
    """The pool: ``config.workers`` processes, served in order of arrival."""

    def __init__(self, config: RepairSection) -> None:
        self._config = config
        self._idle = [RepairWorker(config) for _ in range(config.workers)]
        self._free = asyncio.Semaphore(config.workers)
        self._workers = tuple(self._idle)

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that run now."""
        return tuple(worker.pid for worker in self._workers if worker.pid is not None)

    @property
    def request_timeout_s(self) -> float:
        """The longest time for all outputs of one request, waiting for a worker included."""
        return (QUEUE_DEADLINES + 1) * self._config.deadline_s

    async def __aenter__(self) -> Self:
        """Start the processes; they load their libraries while the daemon goes on."""
        try:
            for worker in self._workers:
                await worker.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def assess(self, wanted: Wanted) -> Assessed:
        """What became of ``wanted``; never raises for what it holds.

        Waits at most ``QUEUE_DEADLINES`` + 1 deadlines and a worker's start. Safe to cancel: the
        worker is replaced.
        """
        found = _read_short(wanted)
        if found is not None and wanted.answers == 1:
            return found
        started = time.monotonic()
        try:
            async with self._worker() as worker:
                return await worker.work(encode_job(wanted), wanted.answers, decode_answer)
        except WorkerFailed as exc:
            log.warning(
                "json_not_assessed",
                reason=str(exc),
                characters=len(wanted.text),
                waited_s=round(time.monotonic() - started, 3),
            )
            return unfinished(wanted, exc.found or found, str(exc))

    async def redact(self, job: Job) -> Redacted | None:
        """``job`` carried out; None where that took too long or cannot be done. As ``assess``."""
        try:
            encoded = frame(job)
            async with self._worker() as worker:
                redacted = await worker.work(encoded, 1, decode_redacted)
        except (UnicodeEncodeError, WorkerFailed) as exc:
            log.warning(
                "not_redacted", reason=str(exc) if isinstance(exc, WorkerFailed) else "text"
            )
            return None
        return redacted if redacted.is_done else None

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncIterator["RepairWorker"]:
        wait_s = QUEUE_DEADLINES * self._config.deadline_s
        try:
            async with asyncio.timeout(wait_s):
                await self._free.acquire()
        except TimeoutError as exc:
            raise WorkerFailed(
                f"no repair worker came free in {wait_s:g} s; raise repair.workers = "
                f"{self._config.workers}"
            ) from exc
        worker = self._idle.pop(0)
        try:
            yield worker
        finally:
            self._idle.append(worker)
            self._free.release()


def unfinished(wanted: Wanted, found: Assessed | None, reason: str) -> Assessed:
    """What is said of ``wanted`` where the work ended after ``found``, or before there was any."""
    if found is None:
        found = Assessed(json_state=JsonState.INVALID, repair_log=reason)
        if not wanted.is_json:
            found = Assessed()
    is_unvalidated = found.schema_valid is None and found.schema_error is None
    if wanted.schema is not None and found.output_json is not None and is_unvalidated:
        found = msgspec.structs.replace(found, schema_error=f"not validated: {reason}")
    if wanted.constraint is not None:
        found = msgspec.structs.replace(
            found,
            constraint_kind=wanted.constraint.kind.value,
            constraint_error=f"not checked: {reason}",
        )
    return found


class RepairWorker:
    """One place in the pool and the process that fills it, used by one caller at a time."""

    def __init__(self, config: RepairSection) -> None:
        self._config = config
        self._process: Process | None = None
        self._in_use = asyncio.Lock()
        self._is_ready = False
        self._closed = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self) -> None:
        """Start a process, if there is none. A failure is left for ``work`` to report."""
        if self._closed.is_set() or self._process is not None:
            return
        config = self._config
        arguments = (config.memory_bytes_max, config.input_bytes_max, config.deadline_s)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-s",
                "-m",
                "edge_store.jsonrepair.worker",
                *map(str, arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # a traceback there could hold a piece of an answer
                env=_environment(),
                start_new_session=True,
            )
        except OSError as exc:
            log.error("repair_worker_not_started", error=str(exc))
            return
        if self._closed.is_set():  # meanwhile
            _kill(self._process)

    async def work(self, job: bytes, answers: int, decode: Callable[[bytes], A]) -> A:
        """The last of so many answers to ``job``. Safe to cancel: the process is replaced.

        Raises:
            WorkerFailed: it took too long, or died. It has been replaced.
        """
        async with self._in_use:
            is_done = False
            try:
                found = await self._exchange(await self._ready(), job, answers, decode)
                is_done = True
            finally:
                if not is_done:
                    await self._end()
                    await self.start()
            return found

    async def _exchange(
        self, process: Process, job: bytes, answers: int, decode: Callable[[bytes], A]
    ) -> A:
        assert process.stdin is not None
        found: A | None = None
        try:
            async with asyncio.timeout(self._config.deadline_s):
                process.stdin.write(job)
                await process.stdin.drain()
                for _ in range(answers):
                    body = await _read(process, FRAME_GROWTH * len(job) + FRAME_SLACK_BYTES)
                    found = decode(body)
        except TimeoutError as exc:
            reason = f"killed: it took longer than repair.deadline_s = {self._config.deadline_s:g}"
            raise WorkerFailed(reason, found) from exc
        except (OSError, EOFError, msgspec.DecodeError) as exc:
            raise WorkerFailed(await self._why_it_died(process), found) from exc
        assert found is not None
        return found

    async def close(self) -> None:
        """End the process for good. It has nothing to lose."""
        self._closed.set()
        if self._process is not None:
            _kill(self._process)
        async with self._in_use:  # whoever waits for an answer has just seen its end
            await self._end()

    async def _ready(self) -> Process:
        """The process, ready for a job.

        Raises:
            WorkerFailed: it does not start.
        """
        if self._process is not None and self._process.returncode is not None:
            await self._end()  # it died idle, as by the kernel's OOM killer: no answer is to blame
        await self.start()
        if self._process is None:
            raise WorkerFailed("the repair worker is closed, or could not be started")
        if not self._is_ready:
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await _read(self._process, 0)
            except (OSError, EOFError, TimeoutError) as exc:
                raise WorkerFailed(
                    f"the repair worker did not start (exit status {self._process.returncode}); "
                    "run `python -m edge_store.jsonrepair.worker 536870912 1048576 2` to see why"
                ) from exc
            self._is_ready = True
        return self._process

    async def _why_it_died(self, process: Process) -> str:
        try:
            async with asyncio.timeout(1.0):
                status = await process.wait()
        except TimeoutError:
            return "killed: it answered what is no answer"
        if status == EXIT_MEMORY:
            return (
                f"more than repair.memory_bytes_max = {self._config.memory_bytes_max} were needed"
            )
        return f"the repair worker died (exit status {status})"

    async def _end(self) -> None:
        process, self._process, self._is_ready = self._process, None, False
        if process is None:
            return
        _kill(process)
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(REAP_TIMEOUT_S):
                await process.communicate()  # reads what is left: only then is its pipe closed
        except TimeoutError:
            log.error("repair_worker_not_reaped", pid=process.pid)


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _read_short(wanted: Wanted) -> Assessed | None:
    """The outcome of a text that is short and JSON as it stands; None for every other, unless none
    was asked for.
    """
    if not wanted.is_json:
        return Assessed()
    if wanted.is_truncated or len(wanted.text) > INLINE_CHARACTERS_MAX:
        return None
    try:
        parse(wanted.text)
    except NotJson:  # also when it is nested deeper than this process may go
        return None
    return Assessed(output_json=storable(wanted.text), json_state=JsonState.VALID)


async def _read(process: Process, bytes_max: int) -> bytes:
    """The body of the next frame.

    Raises:
        EOFError: the worker has ended, or the frame is longer than ``bytes_max``.
    """
    assert process.stdout is not None
    length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
    if length > bytes_max:
        raise EOFError(f"a frame of {length} bytes")
    return await process.stdout.readexactly(length)


def _environment() -> dict[str, str]:
    """Where the worker finds its modules, as this process does; nothing else of ours."""
    paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {"PYTHONPATH": os.pathsep.join(paths), **kept}
