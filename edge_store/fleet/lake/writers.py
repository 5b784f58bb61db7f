"""Whether a lake can lie in a store: only where it gives parts of objects. And whether it can have
several writers at once: only where a commit never replaces another.
"""

import asyncio
import secrets

from edge_store.errors import ConfigError, ReplicationError
from edge_store.fleet.lake.store import Lake
from edge_store.replica.location import Scheme, read_credentials
from edge_store.replica.objects import Objects

__all__ = ["require_conditions", "require_ranges"]

NO_RANGES = "non-partial response"  # obstore has no class of its own for it


def require_ranges(lake: Lake) -> None:
    """Try with a small object of our own whether the store gives a part of it: all that reads a
    lake reads parts. A folder does.

    Raises:
        ConfigError: it gives all of it.
        ReplicationError: it does not answer.
    """
    if lake.location.scheme is not Scheme.FILE and not asyncio.run(_gives_ranges(lake)):
        raise ConfigError(
            f"--lake: {lake} gives no parts of objects (Range): what is written there, nothing "
            "could read",
            hint="use another store, or a folder; `rclone serve s3` is none for a lake",
        )


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


def _objects(lake: Lake) -> tuple[Objects, str]:
    """The store, and a key for an object of our own."""
    objects = Objects(lake.location, read_credentials(lake.location))
    return objects, f"_edge-store/check-{secrets.token_hex(8)}"


async def _gives_ranges(lake: Lake) -> bool:
    objects, key = _objects(lake)
    await objects.put(key, b"part")
    try:
        return await objects.get_range(key, 1, 2) == b"ar"
    except ReplicationError as exc:
        if NO_RANGES in str(exc):
            return False
        raise
    finally:
        await objects.delete(key)


async def _keeps_conditions(lake: Lake) -> bool:
    objects, key = _objects(lake)
    await objects.create(key, b"")
    try:
        return not await objects.create(key, b"")
    finally:
        await objects.delete(key)
