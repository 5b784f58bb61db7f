"""``edge-store status``: is this box well, in ten lines."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import bytes_text, time_text, write_json

if TYPE_CHECKING:
    from edge_store.status import BoxStatus

__all__ = ["status"]


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(config: str | None, *, as_json: bool) -> None:
    """Show how this box is: the daemon, its results, its replica, its disk.

    Exits 0 when the daemon is ready, 1 when it is not. What the files say is shown either way.

    \b
    Example:
      edge-store status
      edge-store status --config mybox --json
    """
    from edge_store.config import load
    from edge_store.status import DaemonState, read_status

    found = read_status(load(config).config)
    if as_json:
        write_json(found, sys.stdout)
    else:
        for name, text in _lines(found):
            click.echo(f"{name:<10} {text}")
    sys.exit(0 if found.state is DaemonState.READY else 1)


def _lines(found: "BoxStatus") -> list[tuple[str, str]]:
    problem = f": {found.problem}" if found.problem else ""
    lines = [("daemon", f"{found.state.value} at {found.url}{problem}")]
    if found.daemon is not None:
        lines += _daemon_lines(found.daemon)
    stored = found.stored
    if stored is None:
        lines.append(("database", found.stored_problem or ""))
    else:
        newest = "none yet"
        if stored.committed_at is not None:
            age_s = max(0.0, time.time() - stored.committed_at / 1000)
            newest = f"newest commit {time_text(stored.committed_at)}, {age_s:.0f} s ago"
        sizes = f"{bytes_text(stored.database_bytes)}, WAL {bytes_text(stored.wal_bytes)}"
        lines += [
            ("device", stored.device_id or "none yet"),
            ("results", f"{stored.results}, {newest}"),
            ("database", sizes),
        ]
    if found.disk_free_bytes is not None:
        limit = bytes_text(found.disk_reserve_bytes // 2)  # recorder/disk.py
        free = bytes_text(found.disk_free_bytes)
        lines.append(("disk", f"{free} free; below {limit} requests are refused"))
    return lines


def _daemon_lines(daemon: dict[str, Any]) -> list[tuple[str, str]]:
    engine, admission = daemon.get("engine", {}), daemon.get("admission", {})
    is_open = "open" if admission.get("is_open") else f"closed ({admission.get('code')})"
    ready = "ready" if engine.get("is_ready") else "not ready: `edge-store doctor` says why"
    replica = daemon.get("replica")
    alarms = [("alarm", _alarm_text(alarm)) for alarm in daemon.get("alarms", ())]
    return [
        *alarms,
        ("version", str(daemon.get("version"))),
        ("engine", f"{engine.get('kind')} {engine.get('version')}, {ready}"),
        ("admission", f"{is_open}, {daemon.get('in_flight')} in flight"),
        ("replica", _replica_text(replica) if replica else "replication is off"),
    ]


def _alarm_text(alarm: dict[str, Any]) -> str:
    since = alarm["since"]
    seen = alarm.get("seen", since)  # an older daemon does not say
    times = f"since {time_text(since)}, last seen {time_text(seen)}"
    return f"{alarm['name']} {times}: {alarm['message']}"


def _replica_text(replica: dict[str, Any]) -> str:
    error = f": {replica['error']}" if replica.get("error") else ""
    return f"{replica.get('state')}, {replica.get('lag_s', 0):.1f} s behind{error}"
