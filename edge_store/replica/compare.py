"""Whether a restored copy is what the live file is, at the position that the copy has.

The live file goes on meanwhile, and is read in short transactions: one that lasted would keep
Litestream from its checkpoints. The connection to the copy may write: on one that may not, SQLite
3.53.4's integrity check passes over CHECK constraints, and damage in a row's overflow pages with
them (seen). Nothing is written to it but that it has no WAL.

A copy whose chain is broken proves nothing. The replica is bad only where the live file is better.
What is as bad there, or worse, is damage of the live file's own, and uploading that would take the
place of what may be the last good copy. Blocking; it runs in the process of a drill.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from edge_store.chain import SEQ_MAX, verify_chain
from edge_store.errors import Corrupt, EdgeStoreError, NotAnEdgeStoreFile
from edge_store.identity import read_device_id
from edge_store.ids import DeviceId
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, check_integrity, open_copy, open_reader, translated

__all__ = ["Compared", "Marks", "compare", "no_marks", "read_marks"]

FAULTS_MAX = 1000  # a broken chain is compared fault by fault
FAULTS_SHOWN = 3
SEQS_AT_ONCE = 8192
NEWLINE = "\n"  # before it SQLite says which database: there is one
LEDGER = ("boots", "commits", "deletions", "drills", "losses", "timelines")


class Marks(Record, frozen=True, kw_only=True):
    """What a file had at a moment: by table whose rows stay for good, its newest key and its number
    of rows; and the newest ``seq``.
    """

    seq: int
    ledger: dict[str, tuple[int, int]]


class Compared(Record, frozen=True, kw_only=True):
    """``faults``: of the replica. ``live``: of the live file, where the replica is no worse. Never
    both. ``timeline``: the copy's newest.
    """

    seq_to: int
    rows: int
    timeline: str | None = None
    faults: tuple[str, ...] = ()
    live: tuple[str, ...] = ()


def no_marks(seq: int) -> Marks:
    """Where nothing is known but up to which ``seq`` the replica reached."""
    return Marks(seq=seq, ledger=dict.fromkeys(LEDGER, (0, 0)))


def read_marks(connection: Connection) -> Marks:
    """What must be in a copy that is made from now on.

    Raises:
        StoreError: they cannot be read.
    """
    with translated("what a copy must have cannot be read"):
        (_, seq) = connection.execute(sql("select_extent")).fetchone()
        return Marks(seq=seq, ledger=_count(connection, dict.fromkeys(LEDGER, SEQ_MAX)))


def _count(connection: Connection, upto: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    found = connection.execute(sql("count_ledger"), upto).fetchall()
    return {table: (newest, rows) for table, newest, rows in found}


def compare(copy: Path, live: Path, device_id: DeviceId, marks: Marks) -> Compared:
    """Check every page and every digest of ``copy``, and that it is the beginning of ``live``.

    ``marks`` were read from ``live`` before the copy's position was confirmed.

    Raises:
        StoreError: ``live`` cannot be read, or ``copy`` not be opened.
    """
    try:
        opened = open_copy(copy, is_lasting=False)
    except (Corrupt, NotAnEdgeStoreFile) as exc:
        return _bad(str(exc))
    with closing(opened) as restored:
        try:
            with translated("it cannot be read"):
                pages = check_integrity(restored, full=True)
                if pages != "ok":
                    return _bad(f"its pages are damaged: {pages.rpartition(NEWLINE)[2]}")
                owner = read_device_id(restored)
                if owner != device_id:
                    return _bad(f"it is the database of {owner}")
                chain = verify_chain(restored, faults_max=FAULTS_MAX)
                (_, seq_to) = restored.execute(sql("select_extent")).fetchone()
                timeline, _ = restored.execute(sql("select_copy_extent")).fetchone()
        except EdgeStoreError as exc:
            return _bad(str(exc))
        faults, its_own = _judge(restored, live, marks, chain.faults, seq_to)
    return Compared(
        seq_to=seq_to,
        rows=chain.results,
        timeline=timeline,
        faults=tuple(faults[:FAULTS_SHOWN]),
        live=tuple(its_own[:FAULTS_SHOWN]),
    )


def _bad(fault: str) -> Compared:
    return Compared(seq_to=0, rows=0, faults=(fault,))


def _judge(
    restored: Connection, live: Path, marks: Marks, broken: Sequence[str], seq_to: int
) -> tuple[list[str], list[str]]:
    """What is wrong with the replica; or, when that is none of its own, with the live file.

    ``broken``: in the chain of the copy, whose pages are sound.
    """
    try:
        with closing(open_reader(live)) as source, translated(f"{live} cannot be compared"):
            differing = _missing(restored, marks, seq_to) + _differing(restored, source, seq_to)
            if not broken and not differing:
                return [], []
            found = _faults_of(source)
            worse = [fault for fault in found if fault not in frozenset(broken)]
            worse += _lost(restored, source, marks)
    except (Corrupt, NotAnEdgeStoreFile) as exc:
        return [], [str(exc)]
    if worse:
        return [], worse
    faults = [fault for fault in broken if fault not in frozenset(found)] + differing
    return faults, [] if faults else [*broken]


def _faults_of(source: Connection) -> tuple[str, ...]:
    source.execute(sql("begin_reading"))
    try:
        pages = check_integrity(source, full=True)
        if pages != "ok":
            return (f"its pages are damaged: {pages.rpartition(NEWLINE)[2]}",)
        return verify_chain(source, faults_max=FAULTS_MAX).faults
    finally:
        source.execute(sql("rollback"))


def _lost(restored: Connection, source: Connection, marks: Marks) -> list[str]:
    """What the live file once had, by the copy, and no chain of its own misses: its newest commits,
    and rows that stay for good.
    """
    upto = {table: newest for table, (newest, _) in marks.ledger.items()}
    faults = [
        f"{table} has lost {rows - marks.ledger[table][1]} rows"
        for table, (_, rows) in _count(restored, upto).items()
        if rows > marks.ledger[table][1]
    ]
    newest = restored.execute(sql("select_newest_links"), {"limit": 1}).fetchone()
    last = source.execute(sql("select_newest_links"), {"limit": 1}).fetchone()
    if newest is None or (last is not None and last[0] >= newest[0]):
        return faults
    if last is not None:
        row = restored.execute(sql("select_link"), {"commit_id": last[0]}).fetchone()
        if row is None or row[0] != last[6]:  # of another history
            return faults
    return [*faults, f"it has lost its newest commits, up to {newest[0]}"]


def _missing(restored: Connection, marks: Marks, seq_to: int) -> list[str]:
    """What was committed before the copy's position and is not in it."""
    faults = []
    if seq_to < marks.seq:
        faults.append(f"it ends at seq {seq_to}; seq {marks.seq} was replicated")
    upto = {table: newest for table, (newest, _) in marks.ledger.items()}
    for table, found in _count(restored, upto).items():
        if found != marks.ledger[table]:
            faults.append(
                f"{table} has {found[1]} rows up to {found[0]}, "
                f"not {marks.ledger[table][1]} up to {marks.ledger[table][0]}"
            )
    return faults


def _differing(restored: Connection, source: Connection, seq_to: int) -> list[str]:
    """What the copy has otherwise than the live file: its newest commit, and any result."""
    faults = []
    newest = restored.execute(sql("select_newest_links"), {"limit": 1}).fetchone()
    if newest is not None:
        commit_id, digest = newest[0], newest[6]
        row = source.execute(sql("select_link"), {"commit_id": commit_id}).fetchone()
        if row is None or row[0] != digest:
            faults.append(f"its newest commit, {commit_id}, is not one of the live file")
    (first, _) = restored.execute(sql("select_extent")).fetchone()
    for seq_from in range(first, seq_to + 1, SEQS_AT_ONCE):
        span = {"seq_from": seq_from, "seq_to": min(seq_to, seq_from + SEQS_AT_ONCE - 1)}
        copied = dict(restored.execute(sql("select_digests"), span).fetchall())
        there = dict(source.execute(sql("select_digests"), span).fetchall())
        if copied == there:
            continue
        faults += [f"seq {seq} is not there" for seq in there.keys() - copied.keys()]
        gone = sorted(copied.keys() - there.keys())  # deleted since, or never there
        asked = {"seqs": msgspec.json.encode(gone).decode()}
        declared = {seq for (seq,) in source.execute(sql("select_seqs_deleted"), asked)}
        faults += [f"seq {seq} is not in the live file" for seq in gone if seq not in declared]
        faults += [
            f"the digest of seq {seq} is another"
            for seq in copied.keys() & there.keys()
            if copied[seq] != there[seq]
        ]
        if len(faults) >= FAULTS_SHOWN:
            break
    return faults
