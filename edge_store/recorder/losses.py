"""Outcomes that could not be stored: an alarm at once, and a row of ``losses`` when one can be."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from edge_store.clock import now_ms
from edge_store.errors import EdgeStoreError
from edge_store.ids import BootId, ResultId
from edge_store.loggers import get_logger
from edge_store.result import Record, Result
from edge_store.sql import sql
from edge_store.sqlite import Connection

if TYPE_CHECKING:  # a pull of many boxes forgets in their copies, and starts often
    from edge_store.observability.metrics import Metrics

__all__ = ["Loss", "Losses", "insert_losses"]

log = get_logger(__name__)

LOSSES_MAX = 16_384  # some 16 MiB: hours of a disk that is full again after each reopening
PER_COMMIT = 256
MESSAGE_CHARS_MAX = 1000


class Loss(Record, frozen=True, kw_only=True):
    """One admitted request whose outcome is in no row of ``results``."""

    at: int  # UTC ms
    boot_id: BootId
    boot_seq: int
    id: ResultId
    code: str
    message: str


class Losses:
    """Those that no COMMIT has carried yet. One past the bound is only logged and counted."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics
        self._waiting: deque[Loss] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, result: Result, error: EdgeStoreError) -> None:
        """``result`` is given up."""
        is_kept = len(self._waiting) < LOSSES_MAX
        log.error(
            "result_lost",
            id=result.id,
            boot_seq=result.boot_seq,
            code=error.code,
            error=str(error),
            is_kept=is_kept,
        )
        self._metrics.lost.labels(error.code).inc()
        if is_kept:
            message = str(error)[:MESSAGE_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
            self._waiting.append(
                Loss(
                    at=now_ms(),
                    boot_id=result.boot_id,
                    boot_seq=result.boot_seq,
                    id=result.id,
                    code=error.code,
                    message=message,
                )
            )

    def first(self) -> Sequence[Loss]:
        """Those that the next COMMIT carries."""
        return tuple(islice(self._waiting, PER_COMMIT)) if self._waiting else ()

    def carried(self, count: int) -> None:
        """So many of the first are committed."""
        for _ in range(count):
            self._waiting.popleft()


def insert_losses(connection: Connection, losses: Sequence[Loss]) -> None:
    """One row each, but for what is there after all: as a result, or already as a loss."""
    for loss in losses:
        connection.execute(
            sql("insert_loss"),
            {
                "at": loss.at,
                "boot_id": loss.boot_id,
                "boot_seq": loss.boot_seq,
                "id": loss.id,
                "code": loss.code,
                "message": loss.message,
            },
        )
