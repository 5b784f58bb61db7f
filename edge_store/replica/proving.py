"""Starts the process of a drill and hears what it says. It dies with this thread, and when it takes
too long; its litestream dies with it.
"""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from contextlib import suppress

import msgspec

from edge_store.errors import ReplicationError
from edge_store.replica.proof import Job, Proof

__all__ = ["prove_aside"]

TIMEOUT_S = 6 * 3600.0  # 1 GB over 500 kbit/s
BEFORE_IT = (("setpriv", "--pdeathsig", "KILL", "--"), ("ionice", "-c", "3"))


class Line(msgspec.Struct, frozen=True):
    """What it says: a step, or in the end the proof."""

    step: str = ""
    proof: Proof | None = None


async def prove_aside(job: Job, say: Callable[[str], object]) -> Proof:
    """``proof.prove`` in a process that yields to all others. Safe to cancel: it is killed.

    Call it on the main thread. Raises ``ReplicationError`` when it ends without a proof.
    """
    before = [part for words in BEFORE_IT if shutil.which(words[0]) for part in words]
    process = await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-P", "-m", "edge_store.replica.proof"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env=dict(os.environ),  # the keys of the store may be there
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        async with asyncio.timeout(TIMEOUT_S):
            async for text in process.stdout:
                line = msgspec.json.decode(text, type=Line)
                if line.proof is not None:
                    return line.proof
                say(line.step)
    except TimeoutError:
        raise ReplicationError(f"the drill took over {TIMEOUT_S:g} s") from None
    except (msgspec.DecodeError, ConnectionError) as exc:
        raise ReplicationError(f"the drill's process cannot be talked to: {exc}") from exc
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    raise ReplicationError(
        f"the drill's process ended with {process.returncode} and proved nothing",
        hint="was it killed for memory? see the kernel's log",
    )
