"""Writes the database anew without the room that is free inside it. Only while no daemon runs:
every page changes, through the WAL, as one transaction.
"""

from pathlib import Path

from edge_store.errors import DiskFull
from edge_store.retention.choice import measure
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["compact"]

COPIES = 2  # of what it holds: a temporary one, and the WAL's


def compact(connection: Connection, path: Path) -> None:
    """On the writer's connection.

    Raises:
        DiskFull: there is too little room for it; the file is as it was.
        StoreError: somebody reads it, or the disk.
    """
    size = measure(connection, path)
    if size.disk_free < COPIES * size.used:
        raise DiskFull(
            f"{path} holds {size.used} bytes, and the disk has {size.disk_free} free: "
            f"{COPIES * size.used} are needed",
            hint="free space on that disk; the database works as it is",
        )
    with translated(f"{path} cannot be written anew"):
        connection.execute(sql("vacuum"))
