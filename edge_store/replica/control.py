"""Litestream's control socket: HTTP over a Unix socket, every call under our own deadline.

Litestream's own timeout is not enough: while it is in touch with a store that does not answer,
``/sync`` may hang with it; ``/info`` always answers. No connection is kept: an idle one delays
Litestream's stop by 5 s.
"""

import asyncio
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from edge_store.errors import ReplicationError
from edge_store.replica.signatures import unsigned

__all__ = ["Control", "Info", "Synced"]

QUICK_TIMEOUT_S = 3.0  # for calls that answer from memory
STUCK_TIMEOUT_S = 150.0  # its own attempts to reach a dead store took up to 115 s
AGAIN_S = 0.05
GRACE_S = 1.0  # beyond the timeout that litestream was given
STOP_TIMEOUT_S = 5.0  # with a last replica sync
SAID_CHARS_MAX = 300
T = TypeVar("T")


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """Litestream's positions: of the database, and of what is in the replica."""

    txid: int
    replicated_txid: int = 0
    status: str = ""

    @property
    def is_replicated(self) -> bool:
        """Whether everything that was committed is in the replica."""
        return self.replicated_txid >= self.txid


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """A running Litestream. ``started_at`` is RFC 3339."""

    version: str
    pid: int
    started_at: str = ""


class Control:
    """The calls that we need."""

    def __init__(self, socket: Path, database: Path) -> None:
        self._database = str(database)
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url="http://litestream",
            headers={"Connection": "close"},
            timeout=None,  # noqa: S113  (``_call`` bounds the whole call, not its parts)
        )

    async def close(self) -> None:
        """Drop what is open."""
        await self._client.aclose()

    async def is_up(self) -> bool:
        """Whether the socket answers."""
        try:
            await self._call("GET", "/info", dict[str, Any], timeout_s=QUICK_TIMEOUT_S)
        except ReplicationError:
            return False
        return True

    async def info(self) -> Info:
        """Which Litestream answers.

        Raises:
            ReplicationError: none does.
        """
        return await self._call("GET", "/info", Info, timeout_s=QUICK_TIMEOUT_S)

    async def start_database(self) -> None:
        """Let it replicate our database; no error when it does.

        Raises:
            ReplicationError: it does not, or knows no such database.
        """
        body = {"path": self._database, "timeout": math.ceil(QUICK_TIMEOUT_S)}
        timeout_s = QUICK_TIMEOUT_S + GRACE_S
        await self._call("POST", "/start", dict[str, Any], timeout_s=timeout_s, body=body)

    async def stop_database(self) -> None:
        """Let it close our database, whose WAL may then be emptied; no error when it has.

        While the store is away its last replica sync takes the whole timeout, and the answer is an
        error, though it has let go (seen): so it is asked once more.

        Raises:
            ReplicationError: it has not.
        """
        with suppress(ReplicationError):
            return await self._stop_database()
        return await self._stop_database()

    async def _stop_database(self) -> None:
        body = {"path": self._database, "timeout": math.ceil(STOP_TIMEOUT_S)}
        timeout_s = STOP_TIMEOUT_S + GRACE_S
        await self._call("POST", "/stop", dict[str, Any], timeout_s=timeout_s, body=body)

    async def positions(self) -> Synced:
        """Take up what the WAL holds and say where both sides are.

        At once as a rule; but while Litestream is in touch with a store that does not answer, the
        answer comes when its own attempt ends.
        """
        return await self._call(
            "POST", "/sync", Synced, timeout_s=STUCK_TIMEOUT_S, body={"path": self._database}
        )

    async def sync(self, timeout_s: float) -> Synced:
        """Wait until everything committed before this call is in the replica.

        Raises:
            ReplicationError: it is not, within ``timeout_s`` (rounded up to a whole second).
        """
        deadline = time.monotonic() + timeout_s
        wanted: int | None = None  # what is committed from now on may go further than the replica
        while True:
            whole_s = max(1, math.ceil(deadline - time.monotonic()))
            body = {"path": self._database, "wait": True, "timeout": whole_s}
            synced = await self._call(
                "POST", "/sync", Synced, timeout_s=whole_s + GRACE_S, body=body
            )
            wanted = synced.txid if wanted is None else wanted
            if synced.status in ("synced", "no_change") and synced.replicated_txid >= wanted:
                return synced
            # Its own loop may take up a TXID between the two that this answer names; ask again.
            if time.monotonic() >= deadline:
                raise ReplicationError(
                    f"the replica has TXID {synced.replicated_txid:016x} of {synced.txid:016x} "
                    f"(litestream says {synced.status!r})"
                )
            await asyncio.sleep(AGAIN_S)

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        timeout_s: float,
        body: dict[str, Any] | None = None,
    ) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.request(method, path, json=body)
        except TimeoutError:
            raise ReplicationError(
                f"litestream did not answer {path} within {timeout_s:g} s",
                hint="is the object store reachable? see `edge-store replica status`",
            ) from None
        except httpx.HTTPError as exc:
            raise ReplicationError(f"litestream does not answer {path}: {exc!r}") from exc
        if response.status_code != httpx.codes.OK:
            said = unsigned(response.content).decode(errors="replace")[:SAID_CHARS_MAX]
            raise ReplicationError(
                f"litestream answered {path} with {response.status_code}: {said}"
            )
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as exc:
            raise ReplicationError(
                f"litestream's answer to {path} is not understood: {exc}"
            ) from exc
