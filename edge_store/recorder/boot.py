"""One start of the daemon: who it is, and its two rows in ``boots``."""

import msgspec

from edge_store.clock import is_clock_synced, now_ms
from edge_store.errors import ConfigError
from edge_store.ids import BootId, DeviceId, new_boot_id, new_device_id
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver

__all__ = ["Boot", "begin_boot", "create_identity", "end_boot", "read_device_id"]


class Boot(Record, frozen=True, kw_only=True):
    """Constant from start to stop; every result carries parts of it."""

    boot_id: BootId
    device_id: DeviceId
    timeline: str
    version: str
    engine: str
    engine_version: str
    clock_synced: bool


def create_identity(connection: Connection, device_id: str, *, reason: str = "created") -> DeviceId:
    """Give a file its device id (once) and a new timeline. Returns the device id in force.

    Raises:
        ConfigError: the file already belongs to another device.
    """
    connection.execute(sql("begin"))
    try:
        found = read_device_id(connection)
        if found is None:
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


def begin_boot(
    connection: Connection, *, device_id: DeviceId, version: str, engine: str, engine_version: str
) -> Boot:
    """Write the start row. Commits."""
    (timeline,) = connection.execute(sql("select_timeline")).fetchone()
    boot = Boot(
        boot_id=new_boot_id(),
        device_id=device_id,
        timeline=timeline,
        version=version,
        engine=engine,
        engine_version=engine_version,
        clock_synced=is_clock_synced(),
    )
    _insert(connection, boot, "start")
    return boot


def end_boot(connection: Connection, boot: Boot) -> None:
    """Write the clean end; its absence means a crash. Commits."""
    _insert(connection, boot, "end")


def _insert(connection: Connection, boot: Boot, event: str) -> None:
    connection.execute(
        sql("insert_boot"),
        {
            **msgspec.structs.asdict(boot),
            "event": event,
            "at": now_ms(),
            "sqlite_version": driver.sqlite_version,
        },
    )
