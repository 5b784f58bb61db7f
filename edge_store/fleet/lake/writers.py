"""Whether a lake can have several writers at once: only where a commit never replaces another."""

import asyncio
import secrets

from edge_store.errors import ConfigError
from edge_store.fleet.lake.store import Lake
from edge_store.replica.location import Scheme, read_credentials
from edge_store.replica.objects import Objects

__all__ = ["require_conditions"]


def require_conditions(lake: Lake) -> None:
    """Try with a small object of our own whether the store creates one only if there is none. A
    folder of this machine does.

    Raises:
        ConfigError: it writes over what is there, so two exports at once would lose one's rows.
        ReplicationError: it does not answer.
    """
    if lake.location.scheme is Scheme.FILE or asyncio.run(_keeps_conditions(lake)):
        return
    raise ConfigError(
        f"--lake: {lake} knows no conditional writes (If-None-Match): of two exports at once, one "
        "would write over the other's commit",
        hint="use a store that keeps them; or see yourself that one export, compaction or vacuum "
        "of this lake runs at a time, and say --only-writer",
    )


async def _keeps_conditions(lake: Lake) -> bool:
    objects = Objects(lake.location, read_credentials(lake.location))
    key = f"_edge-store/check-{secrets.token_hex(8)}"
    await objects.create(key, b"")
    try:
        return not await objects.create(key, b"")
    finally:
        await objects.delete(key)
