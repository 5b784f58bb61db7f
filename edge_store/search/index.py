"""Takes results into search.db, and what was deleted out of it: step by step, each a transaction.

A step reads one consistent view of the database, so that what it has not seen yet it will see
later: rows after the last seq, tombstones after the last deletion_id. What a tombstone is of is
taken out, and put in again as far as it is still there: the answer, where only the prompt went.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge_store.clock import now_ms
from edge_store.recorder.deletions import Reason
from edge_store.search.cleaning import clean, empty, mark_left
from edge_store.search.file import (
    IndexBroken,
    Position,
    extent,
    is_of,
    open_index,
    position_of,
    reading_damaged_texts,
    transaction,
    usable,
)
from edge_store.search.shards import EXPIRED, FORGOTTEN, shard_block, shard_of
from edge_store.search.words import chars_for_parts, fold, words_for_index
from edge_store.sql import sql, sql_of
from edge_store.sqlite import Connection, translated

__all__ = ["Step", "catch_up", "step"]

CHARS_MAX = 2**20  # of a prompt, and of an answer: what is beyond is not found
ROWS_MAX = 256  # of a step, and
STEP_CHARS_MAX = 2**19  # a quarter of a second of work
DELETED_MAX = 256
EMPTY_TRIES = 10  # each waits for who reads it, ``SOON_MS``
# Deletions merge nothing by themselves, neither what has many of them, of 5,000 that took 25 times
# the CPU, and seconds at a time; nor as if each had written a page: of 50 that took 20 ms.
AUTOMERGE, NO_MERGE = 4, 0  # pieces of a size (sqlite.org/fts5.html, "The 'automerge' option")
NEW_SHARD = (
    "create_words", "spare_words", "create_trigrams", "spare_trigrams", "insert_shard",
)  # fmt: skip
TAKE_OUT = (
    ("delete_words", "set_automerge_words"),
    ("delete_trigrams", "set_automerge_trigrams"),
)
SPARED = frozenset({"prefix_cache"})  # operations without an output that anybody wants


class Step(NamedTuple):
    """What was done. ``forgotten``: how many of those ``deleted`` are. ``waited_ms``: how long the
    oldest of the rows had been answered.
    """

    rows: int
    deleted: int
    forgotten: int
    seq: int
    newest: int
    is_more: bool
    waited_ms: int
    cpu_s: float


class _Read(NamedTuple):
    """One consistent view of what the index has not got."""

    rows: list[tuple[Any, ...]]
    deleted: list[tuple[int, int, str]]  # deletion_id, seq, reason
    left: dict[int, tuple[str | None, str | None]]  # of those, what is there all the same
    is_more: bool


def step(connection: Connection, reader: Connection, newest: int, *, take_out: bool = True) -> Step:
    """Take in some more, in one transaction. ``newest``: the seq that is known to be committed.
    ``take_out``: also what was deleted, out.

    Raises:
        IndexBroken: it is to be made anew.
        StoreError: the database cannot be read, or there is no room.
    """
    cpu = time.thread_time()
    position = position_of(connection)
    if not is_of(position, reader):
        raise IndexBroken("the search index is not of this database")
    read = _read(reader, position, DELETED_MAX if take_out else 0)
    seq, digest = position.seq, None
    if read.rows:
        seq, digest = read.rows[-1][0], read.rows[-1][2]
    if not read.is_more and seq < newest:  # what was committed there is deleted already
        seq = newest
    deletion_id = read.deleted[-1][0] if read.deleted else position.deletion_id
    if (seq, deletion_id) != (position.seq, position.deletion_id):
        with usable(), transaction(connection):
            shards = {shard for (shard,) in connection.execute(sql_of("search", "select_shards"))}
            for row_seq, operation, _digest, _at, prompt, answer in read.rows:
                if operation not in SPARED:
                    _insert(connection, shards, row_seq, prompt, answer)
            for reason in Reason:
                gone = [
                    seq for _, seq, why in read.deleted if why == reason and seq <= position.seq
                ]
                _take_out(connection, shards, gone, reason)
            for seq_left, left in read.left.items():
                _insert(connection, shards, seq_left, *left)
            connection.execute(
                sql_of("search", "update_state"),
                {"seq": seq, "digest": digest, "deletion_id": deletion_id},
            )
    return Step(
        rows=len(read.rows),
        deleted=len(read.deleted),
        forgotten=sum(reason == Reason.FORGET for *_, reason in read.deleted),
        seq=seq,
        newest=max(newest, seq),
        is_more=read.is_more,
        waited_ms=max(0, now_ms() - read.rows[0][3]) if read.rows else 0,
        cpu_s=time.thread_time() - cpu,
    )


def _read(reader: Connection, position: Position, deleted_max: int) -> _Read:
    with (
        translated("the results cannot be read"),
        reading_damaged_texts(reader),
        reading_at_once(reader),
    ):
        rows, chars, is_more = [], 0, False
        asked = {"seq": position.seq, "rows": ROWS_MAX}
        for row in reader.execute(sql("select_searched_after"), asked):
            if chars > STEP_CHARS_MAX:
                is_more = True
                break
            rows.append(row)
            chars += len(row[4] or "") + len(row[5] or "")
        deleted = reader.execute(
            sql("select_deleted_after"),
            {"deletion_id": position.deletion_id, "rows": deleted_max},
        ).fetchall()
        left = {
            seq: found
            for _, seq, _ in deleted
            if seq <= position.seq
            and (found := reader.execute(sql("select_searched"), {"seq": seq}).fetchone())
        }
    return _Read(
        rows, deleted, left, is_more or len(rows) == ROWS_MAX or 0 < len(deleted) == deleted_max
    )


@contextmanager
def reading_at_once(reader: Connection) -> Iterator[None]:
    reader.execute(sql("begin_reading"))
    try:
        yield
    finally:
        reader.execute(sql("rollback"))


def _insert(
    connection: Connection, shards: set[int], seq: int, prompt: str | None, answer: str | None
) -> None:
    shard = shard_of(seq)
    if shard not in shards:
        for name in NEW_SHARD:
            connection.execute(shard_block(name, shard), {"shard": shard})
        shards.add(shard)
    asked, told = fold((prompt or "")[:CHARS_MAX]), fold((answer or "")[:CHARS_MAX])
    connection.execute(
        shard_block("insert_words", shard),
        {"seq": seq, "prompt": words_for_index(asked), "answer": words_for_index(told)},
    )
    both = f"{chars_for_parts(asked)} {chars_for_parts(told)}"
    connection.execute(shard_block("insert_trigrams", shard), {"seq": seq, "text": both})


def _take_out(connection: Connection, shards: set[int], seqs: list[int], reason: Reason) -> None:
    """These, which were taken in."""
    why = FORGOTTEN if reason is Reason.FORGET else EXPIRED
    for shard in shards & set(map(shard_of, seqs)):
        gone = [(seq,) for seq in seqs if shard_of(seq) == shard]
        for delete, set_automerge in TAKE_OUT:
            automerge = shard_block(set_automerge, shard)
            _write_waiting(connection)  # what was put in counts as ever
            connection.execute(automerge, {"pieces": NO_MERGE})
            connection.executemany(shard_block(delete, shard), gone)
            _write_waiting(connection)
            connection.execute(automerge, {"pieces": AUTOMERGE})
        connection.execute(sql_of("search", "soil_shard"), {"shard": shard, "why": why})


def _write_waiting(connection: Connection) -> None:
    """What FTS5 has in memory: it does so before a savepoint."""
    for name in ("flush", "flushed"):
        connection.execute(sql_of("search", name))


def catch_up(path: Path, reader: Connection, say: Callable[[int, int], None]) -> Connection:
    """An index of a file that nobody writes, whole: it is made, or goes on from where it is.
    ``say(seq, newest)`` is called after each step. Where somebody reads it for seconds, its WAL
    still has what was merged away until the next time.
    """
    connection = open_index(path, reader)
    newest = extent(reader)[1]
    while (done := step(connection, reader, newest)).is_more:
        say(done.seq, newest)
    mark_left(connection)
    while clean(connection, reader):
        pass
    for _ in range(EMPTY_TRIES):
        if empty(connection):
            break
    say(newest, newest)
    return connection
