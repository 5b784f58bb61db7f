"""One start of the daemon: who it is, and its two rows in ``boots``."""

import msgspec

from edge_store.clock import is_clock_synced, now_ms
from edge_store.ids import DeviceId, new_boot_id
from edge_store.result import Boot
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = ["begin_boot", "end_boot"]


def begin_boot(
    connection: Connection, *, device_id: DeviceId, version: str, engine: str, engine_version: str
) -> Boot:
    """Write the start row. Commits."""
    timeline, _reason = connection.execute(sql("select_timeline")).fetchone()
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
    ended = msgspec.structs.replace(boot, clock_synced=boot.clock_synced or is_clock_synced())
    _insert(connection, ended, "end")


def _insert(connection: Connection, boot: Boot, event: str) -> None:
    with translated(f"the {event} of boot {boot.boot_id} could not be recorded"):
        connection.execute(
            sql("insert_boot"),
            {
                **msgspec.structs.asdict(boot),
                "event": event,
                "at": now_ms(),
                "sqlite_version": driver.sqlite_version,
            },
        )
