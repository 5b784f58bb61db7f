"""Sends by a child process, which is killed when it takes too long: a mail server that hangs holds
up neither the daemon nor its stop. Runs on the event loop.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from edge_store.alerts.sender import Job, Letter, Outcome

__all__ = ["SEND_TIMEOUT_S", "send_all"]

SEND_TIMEOUT_S = 40.0  # for one message; loading apprise takes a second, or ten on a busy box
REAP_TIMEOUT_S = 5.0  # a killed process that stays longer hangs in the kernel
KEPT = (
    *("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("all_proxy", "ALL_PROXY"),
)


async def send_all(
    url: str, letters: tuple[Letter, ...], timeout_s: float = SEND_TIMEOUT_S
) -> AsyncGenerator[Outcome, None]:
    """Send in order, up to the first failure; each outcome as it is known. Never raises for what
    the world does. Closed early, it kills the child.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-s", "-m", "edge_store.alerts.sender"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # a traceback there could hold a piece of the URL
            env=_environment(),
            start_new_session=True,
        )
    except OSError as exc:
        yield _failed(letters[0], f"the sending process does not start: {exc.strerror}")
        return
    try:
        assert process.stdin is not None
        with suppress(OSError):  # it died: so nothing comes back
            process.stdin.write(msgspec.json.encode(Job(url=url, letters=letters)))
            await process.stdin.drain()
            process.stdin.close()
        for letter in letters:
            outcome = await _outcome(process, letter, timeout_s)
            yield outcome
            if outcome.failure is not None:
                return
    finally:
        await _end(process)


async def _outcome(process: Process, letter: Letter, timeout_s: float) -> Outcome:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            line = await process.stdout.readline()
        return msgspec.json.decode(line, type=Outcome)
    except TimeoutError:
        return _failed(letter, f"not taken within {timeout_s:g} s")
    except (OSError, ValueError, msgspec.MsgspecError):
        return _failed(letter, "the sending process died")


def _failed(letter: Letter, reason: str) -> Outcome:
    return Outcome(id=letter.id, service="", failure=reason)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(REAP_TIMEOUT_S):
            await process.communicate()


def _environment() -> dict[str, str]:
    """What finds the modules, the network and the certificates; no secret of ours."""
    paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}
