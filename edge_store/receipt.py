"""The receipt of a result: how durable it is, or what became of it.

One record answers for everybody: the API sends it as JSON, ``described`` puts it into words for a
person. It is read from one consistent view of the file; how far the replica is, only the daemon
knows.
"""

from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, TypeAlias
from uuid import UUID

from edge_store.chain import check_commit, check_rows, find_link
from edge_store.clock import now_ms, rfc3339
from edge_store.errors import InvalidRequest
from edge_store.ids import RESPONSE_PREFIX
from edge_store.lock import LastBoot
from edge_store.replica.status import ReplicaStatus
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "Receipt", "ReplicaUnknown", "State", "parsed_id", "read_receipt",
]  # fmt: skip

UUID_VERSION = 7
TIME_SHIFT = 80  # a UUIDv7 begins with 48 bits of milliseconds
AHEAD_MS = 60_000  # a clock that is ahead of another by less is no wonder
YEAR_10000_MS = 253_402_300_800_000
Replication: TypeAlias = "ReplicaStatus | ReplicaUnknown | None"


class State(StrEnum):
    """What became of it."""

    COMMITTED = "committed"
    CHANGED = "changed"  # it is here, but not as it was committed
    ARCHIVED = "archived"  # retention deleted it; a file of the archive has it
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
    """Why it is not here. ``reason``: of a deletion; ``code``, ``message``: of a loss; ``store``,
    ``file``: of what is archived.
    """

    at: str | None = None
    reason: str | None = None
    code: str | None = None
    message: str | None = None
    boot_no: int | None = None
    store: str | None = None
    file: str | None = None


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
    timeline_no: int | None  # None: the file knows no such timeline


def read_receipt(
    connection: Connection,
    result_id: str,
    replica: Replication,
    last_boot: LastBoot = LastBoot.GOES_ON,
    of_tenant: str | None = None,
) -> Receipt:
    """``replica`` is None when replication is off. ``of_tenant``: others' are as if never made.

    Raises:
        InvalidRequest: ``result_id`` is no UUIDv7.
        StoreError: the file cannot be read.
    """
    result_id = str(parsed_id(result_id))
    with translated(f"the receipt of {result_id!r} cannot be read"):
        connection.execute(sql("begin_reading"))
        try:
            found = _read(connection, result_id, replica, of_tenant)
            return found or _missing(connection, result_id, last_boot)
        finally:
            with suppress(driver.Error):  # the failure may have ended it by itself
                connection.execute(sql("rollback"))


def parsed_id(text: str) -> UUID:
    """An id however it was written down: in capitals, without dashes, in braces; or a response's.

    Raises:
        InvalidRequest: it is no UUIDv7, as every id of ours is.
    """
    try:
        parsed = UUID(text.removeprefix(RESPONSE_PREFIX))
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != UUID_VERSION:
        raise InvalidRequest(
            f"{text!r} is not the id of a result",
            hint="the header x-edge-store-id has it: a UUIDv7, as "
            "0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55; before that of a response is resp_",
        )
    return parsed


def _read(
    connection: Connection, result_id: str, replica: Replication, of_tenant: str | None
) -> Receipt | None:
    wanted = {"id": result_id, "of_tenant": of_tenant}
    row = connection.execute(sql("select_result_place"), wanted).fetchone()
    if row is not None:
        place = Place(*row)
        committed, at = _committed(connection, place)
        fault = _fault(connection, place, committed)
        if fault is not None:
            return Receipt(id=result_id, state=State.CHANGED, message=fault)
        assert at is not None
        return Receipt(
            id=result_id,
            state=State.COMMITTED,
            message=f"committed at {rfc3339(at)}",
            committed=committed,
            replicated=_replicated(place.seq, at, replica),
            proven=_proven(connection, place),
        )
    row = connection.execute(sql("select_deletion_by_id"), wanted).fetchone()
    if row is not None:
        *found, at, reason, store, file = row
        committed, _at = _committed(connection, Place(*found))
        said = f"deleted on {rfc3339(at)} because of {reason}"
        if file is not None:
            said = (
                f"archived: {file} in {store} has it since {rfc3339(at)}, when it was deleted here"
            )
        return Receipt(
            id=result_id,
            state=State.DELETED if file is None else State.ARCHIVED,
            message=said,
            committed=committed,
            gone=Gone(at=rfc3339(at), reason=reason, store=store, file=file),
        )
    if of_tenant is not None:  # nothing says whose it was that is lost
        return None
    row = connection.execute(sql("select_loss_by_id"), wanted).fetchone()
    if row is not None:
        at, code, message, boot_no = row
        return Receipt(
            id=result_id,
            state=State.LOST,
            message=f"lost: it could not be stored ({code}), given up at {rfc3339(at)}",
            gone=Gone(at=rfc3339(at), code=code, message=message, boot_no=boot_no),
        )
    return None


def _fault(connection: Connection, place: Place, committed: Committed | None) -> str | None:
    """Why it cannot be called committed: what ``verify`` would find at this one result."""
    if committed is None:
        return "it is here, but its commit is not: see `edge-store verify`"
    if check_rows(connection, place.seq, place.seq, faults_max=1):
        return "changed since its commit: see `edge-store verify`"
    if check_commit(connection, committed.commit_id):
        return (
            f"commit {committed.commit_id}, which carried it, was changed: see `edge-store verify`"
        )
    return None


def _committed(connection: Connection, place: Place) -> tuple[Committed | None, int | None]:
    """The commit that carried ``place``, and its time in ms."""
    link = find_link(connection, place.seq)
    if link is None:
        return None, None
    found = Committed(
        at=rfc3339(link.at),
        seq=place.seq,
        timeline=place.timeline,
        commit_id=link.commit_id,
        digest=place.digest.hex(),
        commit_digest=link.digest.hex(),
    )
    return found, link.at


def _replicated(seq: int, committed_at: int | None, replica: Replication) -> Replicated:
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


class Account(NamedTuple):
    """The boot in which a missing id would have been made. Times in UTC ms."""

    boot_no: int
    is_ended: int
    next_at: int | None  # start of the boot after it
    marked_at: int
    missing: int


def _missing(connection: Connection, result_id: str, last_boot: LastBoot) -> Receipt:
    """Nothing is noted about this id: its own time says in which boot it would have been made."""
    made_at = UUID(result_id).int >> TIME_SHIFT
    restores = connection.execute(sql("select_restores")).fetchall()
    row = connection.execute(sql("select_boot_of_id"), {"id": result_id}).fetchone()
    message = _out_of_reach(made_at, restores)
    if message is None and row is None:
        message = (
            f"its time ({rfc3339(made_at)}) is before the first boot here: no id of this device"
        )
    if message is not None:
        return Receipt(id=result_id, state=State.UNKNOWN, message=message)
    boot = Account(*connection.execute(sql("select_boot_account"), {"boot_id": row[0]}).fetchone())
    if boot.is_ended or (boot.missing <= 0 and made_at <= boot.marked_at):
        state, message = _of_ended(boot, made_at, last_boot)
    else:
        state, message = _of_open(boot, restores, last_boot)
    gone = None
    if state is State.LOST:
        at = None if boot.is_ended else rfc3339(boot.marked_at)
        gone = Gone(at=at, boot_no=boot.boot_no)
    return Receipt(id=result_id, state=state, message=message, gone=gone)


def _out_of_reach(made_at: int, restores: list[tuple[int, int]]) -> str | None:
    """Why no boot of this file can tell of an id of that time."""
    if made_at > now_ms() + AHEAD_MS:
        when = rfc3339(made_at) if made_at < YEAR_10000_MS else "after the year 9999"
        return (
            f"its time ({when}) is ahead of the clock: no id of this device, unless its clock was"
        )
    for at, newest_at in restores:
        if newest_at < made_at <= at:
            return _restored(at, newest_at)
    return None


def _of_ended(boot: Account, made_at: int, last_boot: LastBoot) -> tuple[State, str]:
    """In a boot that has ended, or that has stored all that it had admitted by then."""
    if boot.is_ended and boot.missing > 0 and made_at <= boot.marked_at:
        return State.LOST, (
            f"lost: no such id on this device, boot {boot.boot_no} ended with {boot.missing} "
            "that were not stored"
        )
    if not boot.is_ended and boot.next_at is None and last_boot is LastBoot.GOES_ON:
        return State.UNKNOWN, _in_flight(boot)
    return State.UNKNOWN, "no such id, and no boot was cut then"


def _of_open(
    boot: Account, restores: list[tuple[int, int]], last_boot: LastBoot
) -> tuple[State, str]:
    """In a boot without an end, which may have admitted what it has not stored."""
    cut = f"no such id on this device, boot {boot.boot_no} was cut at {rfc3339(boot.marked_at)}"
    for at, newest_at in restores:  # it was in flight at the newest commit that was restored
        if boot.marked_at <= newest_at and (boot.next_at is None or at <= boot.next_at):
            return State.UNKNOWN, _restored(at, newest_at)
    if boot.next_at is not None:
        return State.LOST, f"lost: {cut} or later, before {rfc3339(boot.next_at)}"
    match last_boot:
        case LastBoot.GOES_ON:
            return State.UNKNOWN, _in_flight(boot)
        case LastBoot.CUT:
            return State.LOST, (
                f"lost, or never given: {cut} or later: it has no end, and no daemon answers"
            )
        case LastBoot.COPIED:
            ends = f"it ends in boot {boot.boot_no}, at {rfc3339(boot.marked_at)}"
            return State.UNKNOWN, (
                f"no such id in this file: {ends}, and a copy has no daemon: lost, or stored "
                "later, or never given"
            )


def _in_flight(boot: Account) -> str:
    return f"no such id on this device yet: boot {boot.boot_no} goes on, and it may be in flight"


def _restored(at: int, newest_at: int) -> str:
    after = f"what was answered after {rfc3339(newest_at)}" if newest_at else "what came before"
    return f"unknown: this file was restored on {rfc3339(at)}; {after} is not in it"
