"""The order to stop, and how what runs then ends."""

import asyncio
import signal
from typing import Any

from edge_store.errors import AdmissionClosed, EdgeStoreError, ShutDown
from edge_store.loggers import get_logger
from edge_store.recorder.app import Recorder

__all__ = ["Drain", "Stopping"]

log = get_logger(__name__)


class Stopping:
    """SIGTERM and SIGINT: the first asks for a stop, the second for one without a drain."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.received)

    def received(self) -> None:
        """One of them has come."""
        (self.second if self.first.is_set() else self.first).set()


class Drain:
    """Lets what runs finish for a while, then cuts it; every outcome is recorded either way."""

    def __init__(
        self,
        recorder: Recorder,
        stopping: Stopping,
        died: asyncio.Future[EdgeStoreError],
        timeout_s: float,
    ) -> None:
        self._recorder = recorder
        self._stopping = stopping
        self._died = died
        self._timeout_s = timeout_s

    async def __call__(self) -> None:
        slots = self._recorder.slots
        slots.close(AdmissionClosed("the daemon is stopping"))
        self._recorder.commits.end()  # who follows the results comes back after the next start
        drained = asyncio.ensure_future(self._recorder.drained())
        hurried = asyncio.ensure_future(self._stopping.second.wait())
        waiting: set[asyncio.Future[Any]] = {drained, hurried, self._died}
        await asyncio.wait(waiting, timeout=self._timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not drained.done():
            cause: EdgeStoreError = ShutDown("the daemon stopped before this answer was complete")
            if self._died.done():
                cause = self._died.result()
            log.warning("drain_cut", in_flight=slots.in_flight, code=cause.code)
            self._recorder.abort_all(cause)
        await drained
