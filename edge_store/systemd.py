"""What systemd gives a service and wants from it: readiness and the watchdog."""

import asyncio
import os
import socket

from edge_store.sqlite import DatabaseThread

__all__ = ["feed_watchdog", "notify", "watchdog_interval_s"]


def notify(state: str) -> bool:
    """Send ``READY=1`` and the like to the manager; false when there is none (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), address)
    return True


def watchdog_interval_s() -> float | None:
    """How often to send ``WATCHDOG=1``: half of ``WatchdogSec``; None when nobody watches."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    if not microseconds or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000 / 2


async def feed_watchdog(database: DatabaseThread) -> None:
    """Tell systemd that we live, through the writer's thread: if it hangs, we are restarted."""
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        await database.run(lambda _connection: None)
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
