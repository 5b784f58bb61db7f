"""How replication is, in an operator's words: the lines of ``edge-store replica status``."""

from typing import TYPE_CHECKING, Any

from edge_store.cli.output import bytes_text, span_text, time_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["replication_lines", "stored_lines"]

Line = tuple[str, str]


def replication_lines(seen: dict[str, Any]) -> "Iterator[Line]":
    """Of what the daemon said, as it came over the wire; a newer daemon may say more."""
    from edge_store.replica.status import ReplicaState

    state = ReplicaState(seen["state"])
    is_meant = seen.get("cause") == "paused"  # then nobody has to look
    yield "state", state.value if is_meant else f"{state.value}: {state.meaning}"
    if seen.get("cause"):
        yield "cause", _cause(seen)
    if seen.get("error"):
        yield "error", str(seen["error"])
    yield "replicated", _replicated(seen)
    confirmed = seen.get("confirmed")
    if confirmed:
        at = time_text(confirmed["at"])
        what = f"every result up to seq {confirmed['seq']}" if confirmed["seq"] else "no result yet"
        yield "confirmed", f"{what}, at {at}"
    proven = seen.get("proven")
    if proven:
        yield (
            "proven",
            f"every result up to seq {proven['seq']}, by a restore of TXID {proven['txid']}",
        )
    elif confirmed and confirmed["seq"]:
        yield "proven", "not yet: `edge-store replica drill`"
    if seen.get("drill_failure"):
        yield "drill", f"the newest one failed, nothing later is proven: {seen['drill_failure']}"
    if seen.get("health"):
        yield from _health(seen["health"])
    if seen.get("usage"):
        today, month = seen["usage"]["today"], seen["usage"]["month"]
        if today != month:
            yield "asked today", _traffic(today)
        yield "asked", f"{_traffic(month)}, since {time_text(seen['usage']['since'])}"


def stored_lines(found: dict[str, Any]) -> "Iterator[Line]":
    """Of what lies in the store, where no daemon says anything of it."""
    problem = f" ({found['problem']})" if found["problem"] else ""
    yield "daemon", f"{found['daemon']}{problem}: what is not replicated yet is not known"
    yield "device", found["device_id"]
    if not found["files"]:
        yield "stored", found.get("hint") or "nothing"
        return
    size = f"{found['files']} files, {bytes_text(found['bytes'])}"
    yield "stored", f"TXID {_hex(found['txid'])}, last written at {found['written_at']}; {size}"


def _cause(seen: dict[str, Any]) -> str:
    from edge_store.replica.status import Cause

    until = seen.get("paused_until")
    try:
        cause = Cause(seen["cause"])
    except ValueError:  # a newer daemon's
        return str(seen["cause"])
    if cause is Cause.PAUSED and until:
        ends = f"until {time_text(until)}; `edge-store replica resume` ends it"
        return f"{cause.meaning.partition(',')[0]}, {ends}"
    return cause.meaning


def _replicated(seen: dict[str, Any]) -> str:
    last = time_text(seen["last_synced_at"]) if seen.get("last_synced_at") else "never yet"
    position = f"TXID {_hex(seen.get('replicated_txid'))} of {_hex(seen.get('txid'))}"
    if not seen["lag_s"]:
        return f"everything, when last seen: {last}; {position}"
    return f"behind for {span_text(seen['lag_s'])}; everything, last: {last}; {position}"


def _hex(txid: int | None) -> str:
    """As Litestream's files are named."""
    return f"{txid or 0:016x}"


def _health(health: dict[str, Any]) -> "Iterator[Line]":
    waiting = health.get("results_behind")
    if waiting is not None:
        yield "waiting", f"{waiting} results committed and not known to be replicated"
    bound = bytes_text(health["local_bytes_max"])
    held = f"WAL {bytes_text(health['wal_bytes'])}, Litestream's files "
    held += f"{bytes_text(health['ltx_bytes'])}, of {bound} while the store is away"
    sizes = f"database {bytes_text(health['database_bytes'])}, "
    if health.get("drill_copy_bytes"):
        sizes += f"copy of the last drill {bytes_text(health['drill_copy_bytes'])}, "
    sizes += f"{bytes_text(health['disk_free_bytes'])} free"
    yield "disk", f"{held}; {sizes}"
    for each in health["foreign_writers"]:
        who = f"{each['program']} (process {each['process_id']})"
        yield "writer", f"{who} has the database open for writing"
    if health["gaps"]:
        last = time_text(health["gap_at"])
        yield (
            "gaps",
            f"{health['gaps']} since the start, the last at {last}: unsent states given up",
        )
    yield "looked at", time_text(health["at"])


def _traffic(traffic: dict[str, Any]) -> str:
    """Requests and bytes."""
    requests = ", ".join(f"{count} {verb}" for verb, count in traffic["requests"].items())
    sent, read = (traffic["bytes"].get(verb, 0) for verb in ("PUT", "GET"))
    return f"{requests or 'nothing'}; {bytes_text(sent)} sent, {bytes_text(read)} read"
