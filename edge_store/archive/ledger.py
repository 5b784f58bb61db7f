"""The rows of ``archives``: read, and changed one step at a time. Each change is a transaction, and
may be repeated: one that finds its step done changes nothing. Each answers the number of its file.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms
from edge_store.errors import StoreError
from edge_store.recorder.deletions import What
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "Archived", "Begin", "Checked", "Numbered", "begin", "clear_stale", "drop", "end",
    "end_rewrite", "expand", "forgotten_in", "intend_rewrite", "ranges", "read_archives",
    "stale_in", "verified",
]  # fmt: skip

ROWS_MAX = 1_000_000
Ranges = Annotated[tuple[tuple[int, int], ...], Meta(max_length=ROWS_MAX)]


class Begin(Record, frozen=True, kw_only=True):
    """A file that is about to be written. Times are UTC ms."""

    what: What
    store: str
    file: str
    seqs: Ranges
    completed_from: int
    completed_to: int


class Checked(Record, frozen=True, kw_only=True):
    """A file that was read back. ``file``: its name, where it replaces another."""

    archive_no: int
    file: str
    seqs: Ranges
    bytes: int
    sha256: str


class Numbered(Record, frozen=True, kw_only=True):
    """A file, by its number; ``file``: the name of another that belongs to it."""

    archive_no: int
    file: str = ""


class Archived(Record, frozen=True, kw_only=True):
    """A row of ``archives``."""

    archive_no: int
    at: int
    what: What
    store: str
    file: str
    timeline: str
    seqs: Ranges
    seq_from: int
    seq_to: int
    completed_from: int
    completed_to: int
    rows: int
    bytes: int | None
    sha256: str | None
    verified_at: int | None
    emptied_at: int | None
    stale: str | None


def ranges(seqs: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """As few [first, last] as there are, in order."""
    found: list[list[int]] = []
    for seq in sorted(seqs):
        if found and seq == found[-1][1] + 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    return tuple((first, last) for first, last in found)


def expand(found: Sequence[tuple[int, int]]) -> list[int]:
    """The seqs."""
    return [seq for first, last in found for seq in range(first, last + 1)]


def begin(connection: Connection, params: Begin) -> int:
    """The number of the file."""
    row = {
        **msgspec.structs.asdict(params),
        **_span(params.seqs),
        "what": params.what.value,
        "at": now_ms(),
    }
    (number,) = connection.execute(sql("begin_archive"), row).fetchone()
    return int(number)


def verified(connection: Connection, params: Checked) -> int:
    """From now on it counts.

    Raises:
        StoreError: it was given up meanwhile.
    """
    row = {**msgspec.structs.asdict(params), **_span(params.seqs), "at": now_ms()}
    if connection.execute(sql("verify_archive"), row).rowcount != 1:
        raise StoreError(f"archive {params.archive_no} is not under way: did two passes run?")
    return params.archive_no


def end(connection: Connection, params: Numbered) -> int:
    """All of its results that may be deleted are."""
    connection.execute(sql("end_archive"), {"archive_no": params.archive_no, "at": now_ms()})
    return params.archive_no


def drop(connection: Connection, params: Numbered) -> int:
    """It was not written, or is removed again."""
    connection.execute(sql("drop_archive"), {"archive_no": params.archive_no})
    return params.archive_no


def intend_rewrite(connection: Connection, params: Numbered) -> int:
    """``file`` is about to be written in its place."""
    row = msgspec.structs.asdict(params)
    if connection.execute(sql("intend_rewrite"), row).rowcount != 1:
        raise StoreError(f"archive {params.archive_no} is being written anew already")
    return params.archive_no


def end_rewrite(connection: Connection, params: Checked) -> int:
    """``file`` is in its place; what was there is to be removed."""
    row = {**msgspec.structs.asdict(params), **_span(params.seqs)}
    if connection.execute(sql("end_rewrite"), row).rowcount != 1:
        raise StoreError(f"archive {params.archive_no} is not being written anew")
    return params.archive_no


def clear_stale(connection: Connection, params: Numbered) -> int:
    """That file is removed."""
    connection.execute(sql("clear_stale"), msgspec.structs.asdict(params))
    return params.archive_no


def read_archives(connection: Connection, *, unsettled: bool = False) -> list[Archived]:
    """All, or those that something is still to be done about, the oldest first."""
    with translated("the list of archives cannot be read"):
        cursor = connection.execute(sql("select_archives"), {"unsettled": unsettled})
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
    for row in found:
        row["seqs"] = msgspec.json.decode(row["seqs"])
    return msgspec.convert(found, list[Archived])


def forgotten_in(connection: Connection) -> dict[int, set[int]]:
    """By file, the seqs in it that were forgotten since."""
    with translated("what was forgotten cannot be read"):
        rows = connection.execute(sql("select_forgotten_in_archives")).fetchall()
    if not rows:
        return {}
    inside = {each.archive_no: each.seqs for each in read_archives(connection)}
    found: dict[int, set[int]] = {}
    for number, seq in rows:
        if any(first <= seq <= last for first, last in inside[number]):
            found.setdefault(number, set()).add(seq)
    return found


def stale_in(connection: Connection) -> dict[int, str]:
    """By file, the name of another that was written or replaced by ``forget``, and is to go."""
    unsettled = read_archives(connection, unsettled=True)
    return {each.archive_no: each.stale for each in unsettled if each.stale is not None}


def _span(seqs: Sequence[tuple[int, int]]) -> dict[str, object]:
    return {
        "seqs": msgspec.json.encode(seqs).decode(),
        "seq_from": seqs[0][0] if seqs else 0,
        "seq_to": seqs[-1][1] if seqs else 0,
        "rows": sum(last - first + 1 for first, last in seqs),
    }
