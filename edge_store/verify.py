"""Verifies a whole database file: the live one beside its daemon, a restored or a pulled one.

The commits are walked here; what costs, taking the digest of every result again, is shared out by
ranges of ``seq`` to processes, as many as there are cores. Each reads in transactions of its own: a
result that is deleted meanwhile is no fault to any of them, as it and its declaration change in one
commit. They map the file, and read it by whichever driver's SQL functions can take a row's digest
(``chain.add_digest_function``). One that is lost, by a page that the disk does not give or for want
of memory, or that SQLite refuses, leaves all of it to be done here, without a map, where what is
wrong can be said.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from itertools import repeat
from pathlib import Path

import msgspec

from edge_store.chain import (
    SEQ_MAX,
    SEQ_MIN,
    ChainCheck,
    add_digest_function,
    check_links,
    check_rows,
    verify_chain,
)  # fmt: skip
from edge_store.errors import StoreError
from edge_store.schema import altered, require_schema
from edge_store.sql import sql
from edge_store.sqlite import SQLITE_ERRORS, Connection, open_reader, open_scanner, translated

__all__ = ["verify_file"]

RANGE_SEQS = 20_000  # about 0.3 s of work
RANGES_MAX = 10_000
PARALLEL_FROM = 3 * RANGE_SEQS  # below it, starting processes takes longer than they save
PROCESSES_MAX = 16
FAULTS_MAX = 20


def verify_file(
    path: Path, *, head: bytes | None = None, processes: int | None = None
) -> ChainCheck:
    """Check the chain and every row of the file at ``path``; reads only.

    ``head`` is a digest known from elsewhere that must be in the chain. ``processes`` is the number
    of cores if it is not given.

    Raises:
        NotAnEdgeStoreFile, StoreError: it is not ours, or cannot be read.
        Corrupt: SQLite itself finds it damaged, or a table of ours is missing.
    """
    with _reading(path) as connection:
        require_schema(connection, f"{path} is damaged")
        views = [
            f"{each} is not as edge-store makes it"
            for each in altered(connection)
            if each.type == "view"
        ]  # what they show could be anything
        seq_from, seq_to = connection.execute(sql("select_extent")).fetchone()
        processes = processes or min(len(os.sched_getaffinity(0)), PROCESSES_MAX)
        check = None
        if seq_to - seq_from < PARALLEL_FROM:
            check = verify_chain(connection, head=head, faults_max=FAULTS_MAX)
    if check is None:
        with suppress(BrokenProcessPool):
            check = _shared_out(path, head, seq_from, seq_to, processes)
    if check is None:
        with _reading(path) as connection:
            check = verify_chain(connection, head=head, faults_max=FAULTS_MAX)
    return _with_faults(check, views)


def _shared_out(
    path: Path, head: bytes | None, seq_from: int, seq_to: int, processes: int
) -> ChainCheck | None:
    """None if a process could not do its part."""
    step = max(RANGE_SEQS, (seq_to - seq_from) // RANGES_MAX)  # a forged seq may be anything
    starts = list(range(seq_from, seq_to + 1, step))
    # The first and the last range reach to the ends: what belongs to no result may lie anywhere.
    ends = [start - 1 for start in starts[1:]] + [SEQ_MAX]
    starts[0] = SEQ_MIN
    servers = multiprocessing.get_context("forkserver")  # a plain fork would share SQLite's locks
    servers.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(processes, servers, initializer=_leave_interrupts) as pool:
        try:
            found = pool.map(_check_range, repeat(path), starts, ends)
            with _reading(path) as connection:
                check = check_links(connection, head=head, faults_max=FAULTS_MAX)
            faults: list[str] = []
            for part in found:
                if part is None:
                    pool.shutdown(wait=False, cancel_futures=True)
                    return None
                faults += part
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _with_faults(check, faults)


def _with_faults(check: ChainCheck, more: list[str]) -> ChainCheck:
    return msgspec.structs.replace(check, faults=(*check.faults, *more)[:FAULTS_MAX])


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_range(path: Path, seq_from: int, seq_to: int) -> list[str] | None:
    """In a process of the pool. None where SQLite gives up."""
    try:
        with closing(open_scanner(path)) as connection:
            connection.execute(sql("begin_reading"))
            in_sql = add_digest_function(connection)
            return check_rows(connection, seq_from, seq_to, faults_max=FAULTS_MAX, in_sql=in_sql)
    except (*SQLITE_ERRORS, StoreError):
        return None


@contextmanager
def _reading(path: Path) -> Iterator[Connection]:
    """One consistent view of the file."""
    connection = open_reader(path)
    try:
        with translated(f"{path} cannot be verified"):
            connection.execute(sql("begin_reading"))
            yield connection
    finally:
        connection.close()
