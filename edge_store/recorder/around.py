"""What a room that works beside requests is given: it follows what is committed, and owns nothing
that a request waits for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.alerts import Alarms
from edge_store.config import Config
from edge_store.observability.metrics import Metrics
from edge_store.recorder.commits import Commits
from edge_store.recorder.disk import Disk
from edge_store.result import Boot

__all__ = ["Around"]


class Around(NamedTuple):
    """``path`` is the database's: a room opens its own reader. ``change`` is ``Recorder.change``:
    the one way to write there. ``replica`` is None where there is none. ``is_crowded``: requests
    and answers take more than half of the memory that they may: who reads large texts waits.
    ``retention_asked`` is set by who wants a pass of retention.
    """

    config: Config
    path: Path
    boot: Boot
    commits: Commits
    change: Callable[..., Awaitable[Any]]
    disk: Disk
    metrics: Metrics
    alarms: Alarms
    replica: Any
    retention_asked: asyncio.Event
    is_crowded: Callable[[], bool] = lambda: False
