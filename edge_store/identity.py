"""Whose file this is: the device id, given once, for good, and the timeline of its ``seq``."""

from edge_store.clock import now_ms
from edge_store.errors import ConfigError
from edge_store.ids import NO_DEVICES, DeviceId, new_boot_id, new_device_id
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["create_identity", "read_device_id"]


def create_identity(connection: Connection, device_id: str, *, reason: str = "created") -> DeviceId:
    """Give a file its device id (once) and a new timeline. Returns the device id in force.

    Raises:
        ConfigError: the file already belongs to another device, or no box can have this id.
    """
    connection.execute(sql("begin"))
    try:
        found = read_device_id(connection)
        if found is None:
            if device_id in NO_DEVICES:
                raise ConfigError(
                    f"device.id = {device_id!r}: beside the replicas a folder of that name has "
                    "other things in it",
                    hint="give the box another id",
                )
            found = DeviceId(device_id) if device_id else new_device_id()
            connection.execute(sql("insert_device"), {"device_id": found, "created_at": now_ms()})
        elif device_id and device_id != found:
            raise ConfigError(
                f"device.id = {device_id!r}, but this database belongs to {found!r}",
                hint="a box keeps its id for good: set device.id back, or use another store.path",
            )
        if reason != "created" or connection.execute(sql("select_timeline")).fetchone() is None:
            connection.execute(
                sql("insert_timeline"),
                {"timeline": new_boot_id(), "started_at": now_ms(), "reason": reason},
            )
        connection.execute(sql("commit"))
    except BaseException:
        connection.execute(sql("rollback"))
        raise
    return found


def read_device_id(connection: Connection) -> DeviceId | None:
    """The box this file belongs to; None for a file that has just been created."""
    row = connection.execute(sql("select_device")).fetchone()
    return DeviceId(row[0]) if row else None
