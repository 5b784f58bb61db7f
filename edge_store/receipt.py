"""The receipt of a result: how durable it is, or what became of it.

One record answers for everybody: the API sends it as JSON, ``described`` puts it into words for a
person. It is read from one consistent view of the file; how far the replica is, only the daemon
knows.
"""

from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from edge_store.clock import now_ms, rfc3339
from edge_store.replica.status import ReplicaStatus
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = ["Receipt", "ReplicaUnknown", "State", "described", "read_receipt"]

UUID_VERSION = 7
TIME_SHIFT = 80  # a UUIDv7 begins with 48 bits of milliseconds


class State(StrEnum):
    """What became of it."""

    COMMITTED = "committed"
    DELETED = "deleted"
    LOST = "lost"
    UNKNOWN = "unknown"  # nothing says that it ever was


class ReplicaState(StrEnum):
    """Whether it is in the replica."""

    REPLICATED = "replicated"
    NOT_YET = "not_yet"
    OFF = "off"  # this box replicates nothing
    NOT_KNOWN = "not_known"  # only a running daemon knows


class Committed(Record, frozen=True, kw_only=True):
    """The COMMIT that carried it. ``digest``: of the result; ``commit_digest``: of the chain."""

    at: str
    seq: int
    timeline: str
    commit_id: int
    digest: str
    commit_digest: str


class Replicated(Record, frozen=True, kw_only=True):
    """By ``at`` the replica was at ``txid`` and held it; or it has waited for ``lag_s``."""

    state: ReplicaState
    at: str | None = None
    txid: str | None = None
    lag_s: float | None = None
    reason: str | None = None  # why it is not known


class Proven(Record, frozen=True, kw_only=True):
    """The newest restore drill that found it."""

    at: str
    drill_id: int
    txid: str | None


class Gone(Record, frozen=True, kw_only=True):
    """Why it is not here. ``reason``: of a deletion; ``code``, ``message``: of a loss."""

    at: str | None = None
    reason: str | None = None
    code: str | None = None
    message: str | None = None
    boot_no: int | None = None


class Receipt(Record, frozen=True, kw_only=True):
    """``message`` says it in one sentence."""

    object: str = "receipt"
    id: str
    state: State
    message: str
    committed: Committed | None = None
    replicated: Replicated | None = None
    proven: Proven | None = None
    gone: Gone | None = None


class ReplicaUnknown(Record, frozen=True):
    """Stands for the replica's status where there is no daemon to ask."""

    reason: str


class Place(NamedTuple):
    """Where in the chain it is or was."""

    seq: int
    timeline: str
    boot_id: str
    digest: bytes
    timeline_no: int


def read_receipt(
    connection: Connection,
    result_id: str,
    replica: ReplicaStatus | ReplicaUnknown | None,
) -> Receipt:
    """``replica`` is None when replication is off.

    Raises:
        StoreError: the file cannot be read.
    """
    with translated(f"the receipt of {result_id!r} cannot be read"):
        connection.execute(sql("begin_reading"))
        try:
            return _read(connection, result_id, replica)
        finally:
            with suppress(driver.Error):  # the failure may have ended it by itself
                connection.execute(sql("rollback"))


def _read(
    connection: Connection,
    result_id: str,
    replica: ReplicaStatus | ReplicaUnknown | None,
) -> Receipt:
    wanted = {"id": result_id}
    row = connection.execute(sql("select_result_place"), wanted).fetchone()
    if row is not None:
        place = Place(*row)
        committed, at = _committed(connection, place)
        return Receipt(
            id=result_id,
            state=State.COMMITTED,
            message=f"committed at {rfc3339(at)}" if at else "its commit is not in this file",
            committed=committed,
            replicated=_replicated(place.seq, at, replica),
            proven=_proven(connection, place),
        )
    row = connection.execute(sql("select_deletion_by_id"), wanted).fetchone()
    if row is not None:
        *found, at, reason = row
        committed, _at = _committed(connection, Place(*found))
        return Receipt(
            id=result_id,
            state=State.DELETED,
            message=f"deleted on {rfc3339(at)} because of {reason}",
            committed=committed,
            gone=Gone(at=rfc3339(at), reason=reason),
        )
    row = connection.execute(sql("select_loss_by_id"), wanted).fetchone()
    if row is not None:
        at, code, message, boot_no = row
        return Receipt(
            id=result_id,
            state=State.LOST,
            message=f"lost: it could not be stored ({code}), given up at {rfc3339(at)}",
            gone=Gone(at=rfc3339(at), code=code, message=message, boot_no=boot_no),
        )
    return _missing(connection, result_id)


def _committed(connection: Connection, place: Place) -> tuple[Committed | None, int | None]:
    """The commit that carried ``place``, and its time in ms. Found by bisection: commits are many,
    and no index of them is worth what it costs at every COMMIT.
    """
    (last,) = connection.execute(sql("select_last_commit_id")).fetchone()
    low, high = 1, last
    while low <= high:
        middle = (low + high) // 2
        row = connection.execute(sql("select_commit_upwards"), {"commit_id": middle}).fetchone()
        if row is None or row[2] > place.seq:
            high = middle - 1
        elif row[3] < place.seq:
            low = row[0] + 1
        else:
            commit_id, at, _from, _to, digest = row
            found = Committed(
                at=rfc3339(at),
                seq=place.seq,
                timeline=place.timeline,
                commit_id=commit_id,
                digest=place.digest.hex(),
                commit_digest=digest.hex(),
            )
            return found, at
    return None, None


def _replicated(
    seq: int, committed_at: int | None, replica: ReplicaStatus | ReplicaUnknown | None
) -> Replicated:
    if replica is None:
        return Replicated(state=ReplicaState.OFF)
    if isinstance(replica, ReplicaUnknown):
        return Replicated(state=ReplicaState.NOT_KNOWN, reason=replica.reason)
    confirmed = replica.confirmed
    if confirmed is not None and seq <= confirmed.seq:
        return Replicated(
            state=ReplicaState.REPLICATED,
            at=rfc3339(confirmed.at),
            txid=f"{confirmed.txid:016x}",
        )
    lag_s = replica.lag_s
    if not lag_s and committed_at is not None:  # it came after the last look at the replica
        lag_s = max(0, now_ms() - committed_at) / 1000
    return Replicated(state=ReplicaState.NOT_YET, lag_s=round(lag_s, 3))


def _proven(connection: Connection, place: Place) -> Proven | None:
    wanted = {"seq": place.seq, "timeline_no": place.timeline_no}
    row = connection.execute(sql("select_newest_drill"), wanted).fetchone()
    return Proven(drill_id=row[0], at=rfc3339(row[1]), txid=row[2]) if row else None


def _missing(connection: Connection, result_id: str) -> Receipt:
    """Nothing is noted about this id: its own time says in which boot it would have been made."""

    def unknown(why: str) -> Receipt:
        return Receipt(id=result_id, state=State.UNKNOWN, message=f"no such id{why}")

    made_at = _time_of(result_id)
    if made_at is None:
        return unknown(": it is not one that this box gives out")
    row = connection.execute(sql("select_boot_of_id"), {"id": result_id.lower()}).fetchone()
    if row is None:
        return unknown(" on this device: it is older than the first boot here")
    boot_no, is_ended, next_at, marked_at, missing = connection.execute(
        sql("select_boot_account"), {"boot_id": row[0]}
    ).fetchone()
    if next_at is None and not is_ended:
        return unknown(f" on this device yet: boot {boot_no} goes on, and it may be in flight")
    if is_ended and missing > 0 and made_at <= marked_at:
        return Receipt(
            id=result_id,
            state=State.LOST,
            message=f"lost: no such id on this device, boot {boot_no} ended with {missing} "
            "that were not stored",
            gone=Gone(boot_no=boot_no),
        )
    if is_ended or next_at is None or (missing <= 0 and made_at <= marked_at):
        return unknown(", and no boot was cut then")
    return Receipt(
        id=result_id,
        state=State.LOST,
        message=f"lost: no such id on this device, boot {boot_no} was cut at {rfc3339(marked_at)} "
        f"or later, before {rfc3339(next_at)}",
        gone=Gone(at=rfc3339(marked_at), boot_no=boot_no),
    )


def _time_of(result_id: str) -> int | None:
    """UTC ms at which a UUIDv7 was made; None for what is none."""
    try:
        parsed = UUID(result_id)
    except ValueError:
        return None
    return parsed.int >> TIME_SHIFT if parsed.version == UUID_VERSION else None


def described(receipt: Receipt) -> list[tuple[str, str]]:
    """The lines of a receipt for a person: name and text."""
    lines = [("receipt", receipt.id), ("state", receipt.message)]
    if receipt.gone is not None and receipt.gone.message:
        lines.append(("error", receipt.gone.message))
    committed = receipt.committed
    if committed is not None:
        lines += [
            ("committed", f"{committed.at}, commit {committed.commit_id}, seq {committed.seq}"),
            ("digest", committed.digest),
        ]
    replicated = receipt.replicated
    if replicated is not None:
        lines.append(("replicated", _replicated_text(replicated)))
        proven = receipt.proven
        text = f"{proven.at} by restore drill {proven.drill_id}" if proven else "not yet"
        lines.append(("proven", text))
    return lines


def _replicated_text(replicated: Replicated) -> str:
    match replicated.state:
        case ReplicaState.REPLICATED:
            return f"by {replicated.at} with TXID {replicated.txid}"
        case ReplicaState.NOT_YET:
            return f"not yet, lag {replicated.lag_s:.1f} s"
        case ReplicaState.OFF:
            return "replication is off"
        case ReplicaState.NOT_KNOWN:
            return f"not known: {replicated.reason}"
