"""Starts the process of a drill and hears what it says. It dies with this thread, and when it takes
too long; its litestream dies with it.

At first it has only the processor time that nothing else wants, and runs a part of the time only
while requests are in flight (``duty.py``). That may be none: then after a while it begins again,
with a share of about a tenth.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from edge_store.duty import LEFT_OVER, SMALL, Share, keep_to_turns, make_session_nice
from edge_store.errors import ReplicationError
from edge_store.loggers import get_logger
from edge_store.replica.proof import Asked, Job, Proof
from edge_store.replica.traffic import Count, uncounted

__all__ = ["prove_aside"]

log = get_logger(__name__)

TIMEOUT_S = 6 * 3600.0  # 1 GB over 500 kbit/s


class Line(msgspec.Struct, frozen=True):
    """What it says: a step, what was asked of the store since, or in the end the proof."""

    step: str = ""
    asked: Asked | None = None
    proof: Proof | None = None


async def prove_aside(
    job: Job,
    say: Callable[[str], object],
    count: Count = uncounted,
    *,
    idle_s: float,
    is_busy: Callable[[], bool] = lambda: False,
) -> Proof:
    """``proof.prove`` in a process that yields to all others: for ``idle_s`` wholly, then largely;
    and to requests, while ``is_busy``, for longer turns than the kernel would give them.
    Safe to cancel: it is killed. ``count`` is told what it asks of the store, as it does.

    Call it on the main thread. Raises ``ReplicationError`` when it ends without a proof.
    """
    if idle_s:
        try:
            return await _prove(job, Ears(say, count), LEFT_OVER, idle_s, is_busy)
        except TimeoutError:
            log.warning("drill_starved", idle_s=idle_s)
            say("the machine leaves it no time: it begins again with a small share")
    try:
        return await _prove(job, Ears(say, count), SMALL, TIMEOUT_S)
    except TimeoutError:
        raise ReplicationError(f"the drill took over {TIMEOUT_S:g} s") from None


class Ears(NamedTuple):
    """Who is told."""

    say: Callable[[str], object]
    add: Count


async def _prove(
    job: Job,
    ears: Ears,
    share: Share,
    timeout_s: float,
    is_busy: Callable[[], bool] = lambda: False,
) -> Proof:
    process = await _started(share)
    assert process.stdin is not None
    assert process.stdout is not None
    turns = asyncio.ensure_future(keep_to_turns(process.pid, is_busy, timeout_s))
    try:
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        async with asyncio.timeout(timeout_s):
            async for text in process.stdout:
                line = msgspec.json.decode(text, type=Line)
                if line.asked is not None:
                    ears.add(*line.asked)
                elif line.proof is not None:
                    return line.proof
                else:
                    ears.say(line.step)
    except (msgspec.DecodeError, ConnectionError) as exc:
        raise ReplicationError(f"the drill's process cannot be talked to: {exc}") from exc
    finally:
        turns.cancel()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    raise ReplicationError(
        f"the drill's process ended with {process.returncode} and proved nothing",
        hint="was it killed for memory? see the kernel's log",
    )


async def _started(share: Share) -> asyncio.subprocess.Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *(*share.before_it, sys.executable, "-P", "-m", "edge_store.replica.proof"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=dict(os.environ),  # the keys of the store may be there
            start_new_session=True,
        )
    except OSError as exc:  # no memory, no process or no descriptor is left
        raise ReplicationError(
            f"the drill's process does not start: {exc}",
            hint="free memory, or raise the limits of processes and open files",
        ) from exc
    make_session_nice(process.pid, share.nice)
    return process
