"""What our own routes are made of: a reader, a way to change, and what the rooms know."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from edge_store.api.background import Background
from edge_store.engine import Engine
from edge_store.queue.room import Queue
from edge_store.readers import Reader
from edge_store.recorder.caller import ShutOut, nobody_is
from edge_store.recorder.commits import Commits
from edge_store.recorder.redacting import Redacting
from edge_store.replica.status import ReplicaStatus
from edge_store.sqlite import DatabaseThread

__all__ = ["Changing", "Health", "Services"]

T = TypeVar("T")

Health = Callable[[], Awaitable[dict[str, Any]]]


class Changing(Protocol):
    """Writes what is no result (``Writer.change``)."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Call ``function(connection, *args)`` in a transaction; its value, once committed."""


class Services(NamedTuple):
    """``exposition`` is what Prometheus scrapes; ``health`` answers with ``is_ready`` and more;
    ``replica`` is None when replication is off; ``shut_out`` tells who may not go on. Without
    ``background`` there are no responses, without ``engine`` no models.
    """

    reader: Reader
    queries: DatabaseThread  # another one: what a person asks may take long
    change: Changing
    redacting: Redacting
    commits: Commits
    exposition: Callable[[], bytes]
    health: Health
    replica: Callable[[], ReplicaStatus | None] = lambda: None
    shut_out: ShutOut = nobody_is
    queue: Queue | None = None
    background: Background | None = None
    engine: Engine | None = None
