"""Carries what a box has forgotten out in the older copies that are kept beside its newest one."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from edge_store.errors import StoreError
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sql import sql
from edge_store.sqlite import open_copy, open_reader, translated

__all__ = ["forget_in_all"]

SEQS_MAX = 256


def forget_in_all(newest: Path) -> tuple[int, tuple[Path, ...]]:
    """``forget_in`` each older copy: how many results, and the copies that could not be written."""
    count, failed = 0, []
    for older in older_copies(newest):
        try:
            count += forget_in(older, newest)
        except StoreError:  # an older copy may be damaged: it is kept for what can be saved of it
            failed.append(older)
    return count, tuple(failed)


def older_copies(path: Path) -> list[Path]:
    """``<device id>.<time>.db`` beside ``<device id>.db``."""
    return sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))


def forget_in(older: Path, newest: Path) -> int:
    """Delete in ``older`` each result that ``newest`` says is to be forgotten; how many.

    Raises:
        StoreError: one of them cannot be read, or ``older`` not be written.
    """
    with closing(open_reader(newest)) as reader, translated(f"{newest} cannot be read"):
        ids = [name for (name,) in reader.execute(sql("select_forgotten_ids"))]
    with closing(open_copy(older)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        with translated(f"{older} cannot be read"):
            chosen = {"ids": msgspec.json.encode(ids).decode()}
            seqs = [seq for (seq,) in connection.execute(sql("select_seqs_of_ids"), chosen)]
        return sum(delete_results(connection, page, Reason.FORGET) for page in _pages(seqs))


def _pages(seqs: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(seqs), SEQS_MAX):
        yield seqs[start : start + SEQS_MAX]
