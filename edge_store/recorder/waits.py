"""``x-edge-store-wait: replicated``: an answer's end is held until its result is in the replica.

By then it is committed and its slot is free; what waits has a place here, and its answer's bytes
are counted on. The replica sync is asked for at once, and one serves all who wait: who comes while
it is under way waits for the next. The answer is paid for, so it is never lost by waiting: what
cannot be waited for, or not any longer, leaves as `committed` and says why. Runs on the event loop.
"""

import asyncio
import re
from typing import Any, Protocol, TypeAlias

import msgspec

from edge_store.engine import Receive, Scope
from edge_store.errors import InvalidRequest, Overloaded, ReplicationError
from edge_store.observability.metrics import Metrics
from edge_store.recorder.idempotency import departure
from edge_store.recorder.sharing import Shares
from edge_store.result import NotReplicated, Receipt

__all__ = ["WAIT_HEADER", "Replicating", "Waits"]

WAIT_HEADER = b"x-edge-store-wait"
WAIT = re.compile(rb"replicated(?:\s*;\s*timeout\s*=\s*(\d{1,9}(?:\.\d{1,9})?))?")
WAIT_S = 10.0  # where no timeout is given
# A sync is one PUT or more, in some milliseconds: so no more than 4 a second are asked for.
PAUSE_S = 0.25
# Longer than any wait: while the store does not answer each question goes on inside Litestream
# after we have given it up, so there is one, and it is answered as soon as the store is back.
SYNC_TIMEOUT_S = 120.0
SEQ_MAX = 2**63 - 1

Waiting: TypeAlias = "asyncio.Future[NotReplicated | None]"


class Replicating(Protocol):
    """What is needed of a replica."""

    @property
    def replicated_seq(self) -> int:
        """Every result up to this one is in the replica."""

    @property
    def hindered(self) -> NotReplicated | None:
        """Why nothing is known to be replicated until a person acts; None: it is, or will be by
        itself.
        """

    async def sync(self, timeout_s: float) -> object:
        """Wait until everything committed before this call is in it. Raises ReplicationError."""


class Waits:
    """Those that wait. ``replica`` is None where there is none."""

    def __init__(
        self, replica: Replicating | None, wait_max_s: float, places: int, metrics: Metrics
    ) -> None:
        self._replica = replica
        self._wait_max_s = wait_max_s
        self._metrics = metrics
        self._shares = Shares(places, "requests wait for the replica", "wait for fewer at once")
        self._waiting: dict[Waiting, int] = {}  # for which seq
        self._came = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_ending = False

    def asked(self, scope: Scope) -> float | None:
        """How long a request is ready to wait, in seconds; None: not at all.

        Raises:
            InvalidRequest: the header cannot be understood, or it asks for too long.
        """
        value = next((v for k, v in scope["headers"] if k == WAIT_HEADER), None)
        if value is None:
            return None
        found = WAIT.fullmatch(value.strip().lower())
        if found is None:
            raise InvalidRequest(
                f"the header x-edge-store-wait is {value[:60].decode(errors='replace')!r}; "
                "it can be `replicated` or `replicated; timeout=SECONDS`"
            )
        wait_s = min(WAIT_S, self._wait_max_s) if found[1] is None else float(found[1])
        if wait_s > self._wait_max_s:
            raise InvalidRequest(
                f"x-edge-store-wait: {wait_s:g} s are more than replica.wait_max_s = "
                f"{self._wait_max_s:g}",
                hint="wait for less; the receipt tells later: GET /v1/results/{id}/receipt",
            )
        return wait_s

    async def hold(
        self, receipt: Receipt, tenant: str | None, wait_s: float, receive: Receive
    ) -> Receipt:
        """The receipt, once its result is in the replica or it is known why it is not."""
        why = await self.until(receipt.seq, tenant, wait_s, receive)
        return msgspec.structs.replace(receipt, is_replicated=why is None, not_replicated=why)

    async def until(
        self, seq: int | None, tenant: str | None, wait_s: float, receive: Receive
    ) -> NotReplicated | None:
        """Wait until the result ``seq``, or all that is committed by now, is in the replica.
        Returns why it is not, if it is not. Ends early when the caller leaves. Safe to cancel.
        """
        try:
            with self._shares.place(tenant):
                why = await self._until(SEQ_MAX if seq is None else seq, wait_s, receive)
        except Overloaded:
            why = NotReplicated.BUSY
        self._metrics.waited.labels("replicated" if why is None else why.value).inc()
        return why

    async def _until(self, seq: int, wait_s: float, receive: Receive) -> NotReplicated | None:
        if self._replica is None:
            return NotReplicated.OFF
        if seq <= self._replica.replicated_seq:
            return None
        if self._is_ending:
            return NotReplicated.STOPPING
        waiting: Waiting = asyncio.get_running_loop().create_future()
        gone = asyncio.ensure_future(departure(receive))
        self._waiting[waiting] = seq
        self._idle.clear()
        self._came.set()
        try:
            either: set[asyncio.Future[Any]] = {waiting, gone}
            await asyncio.wait(either, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            return NotReplicated.LEFT if gone.done() else NotReplicated.TIMEOUT
        finally:
            gone.cancel()
            del self._waiting[waiting]
            if not self._waiting:
                self._idle.set()

    async def run(self) -> None:
        """Ask for replica syncs while somebody waits, until cancelled."""
        while self._replica is not None:
            await self._came.wait()
            self._came.clear()
            while waiting := self._those(SEQ_MAX):  # what comes later, this sync may miss
                if (why := self._replica.hindered) is not None:
                    _tell(waiting, why)
                else:
                    try:
                        await self._replica.sync(SYNC_TIMEOUT_S)
                    except ReplicationError:  # whoever waits has a timeout; the room has the alarm
                        waiting = self._those(self._replica.replicated_seq)
                    _tell(waiting, None)
                await asyncio.sleep(PAUSE_S)

    async def drained(self) -> None:
        """Wait until nobody waits; from then on nobody will."""
        await self._idle.wait()
        self.end()

    def end(self) -> None:
        """Let go whoever waits, and whoever would."""
        self._is_ending = True
        _tell(self._those(SEQ_MAX), NotReplicated.STOPPING)

    def _those(self, seq: int) -> tuple[Waiting, ...]:
        """Who waits for a result up to this one."""
        return tuple(
            each for each, upto in self._waiting.items() if upto <= seq and not each.done()
        )


def _tell(waiting: tuple[Waiting, ...], why: NotReplicated | None) -> None:
    for each in waiting:
        if not each.done():  # by the end
            each.set_result(why)
