"""Reads the results to export, page by page: each page is one short read transaction, so that the
WAL of a live box can be checkpointed meanwhile, and holds a bounded number of bytes.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Self

from edge_store.errors import InvalidRequest, NotAnEdgeStoreFile
from edge_store.exports.mark import Mark
from edge_store.identity import read_device_id
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_reader, translated

__all__ = ["Fetch", "Page", "Place", "Source", "wanted"]

RESULTS_PER_PAGE = 2048  # looked at: a selection may take few of them
PAGE_BYTES = 8 * 2**20  # and one row

# (connection, span) -> of each row its seq, about its bytes, and the row
Fetch = Callable[[Connection, dict[str, Any]], Generator[tuple[int, int, Any]]]


class Place(NamedTuple):
    """A result, by where it is and what it is."""

    seq: int
    timeline: str
    digest: str


class Page(NamedTuple):
    """The rows that are wanted of those up to ``upto``, which may be none."""

    rows: list[Any]
    upto: Place


def wanted(block: str, selection: Selection) -> str:
    """The statement, narrowed to the selection."""
    return sql(block).replace("'wanted'", f"({selection.condition})")


class Source:
    """A file of ours, read as far as it goes when it is opened.

    Raises:
        NotAnEdgeStoreFile: it belongs to no box.
        StoreError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._what = f"{path} cannot be read"
        self.connection = open_reader(path)
        try:
            with translated(self._what):
                device_id = read_device_id(self.connection)
                (self.until,) = self.connection.execute(sql("select_last_seq")).fetchone()
            if device_id is None:
                raise NotAnEdgeStoreFile(f"{path} belongs to no box: it was never set up")
        except BaseException:
            self.connection.close()
            raise
        self.device_id = str(device_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.connection.close()

    def require_continues(self, mark: Mark) -> None:
        """Raises ``InvalidRequest`` unless an export that came to ``mark`` can go on from here."""
        if mark.device_id != self.device_id:
            raise InvalidRequest(
                f"the export is of {mark.device_id}, and {self.path} is {self.device_id}'s",
                hint="export each box to a place of its own",
            )
        if not mark.seq or not mark.digest:  # it began there: nothing is known of it
            return
        with translated(self._what):
            there = self.connection.execute(sql("select_export_place"), {"seq": mark.seq})
            places = [(timeline, digest.hex()) for timeline, digest in there.fetchall()]
        if (mark.timeline, mark.digest) not in places:
            raise InvalidRequest(
                f"the export came to seq {mark.seq} of timeline {mark.timeline}, which {self.path} "
                "does not have: the box was restored from before it, or this is an older copy",
                hint="export it anew, to another place or with --force",
            )

    def pages(self, after: int, fetch: Fetch) -> Iterator[Page]:
        """All after that seq, in its order."""
        while (page := self._page(after, fetch)) is not None:
            yield page
            after = page.upto.seq

    def _page(self, after: int, fetch: Fetch) -> Page | None:
        with translated(self._what):
            self.connection.execute(sql("begin_reading"))
            try:
                asked = {"after": after, "until": self.until, "results": RESULTS_PER_PAGE}
                (upto,) = self.connection.execute(sql("select_export_span"), asked).fetchone()
                if upto is None:
                    return None
                rows: list[Any] = []
                left = PAGE_BYTES
                span = {"after": after, "upto": upto}
                with closing(fetch(self.connection, span)) as found:  # else it reads on
                    for seq, size, row in found:
                        rows.append(row)
                        left -= size
                        if left < 0:
                            upto = seq
                            break
                timeline, digest = self.connection.execute(
                    sql("select_export_place"), {"seq": upto}
                ).fetchone()
            finally:
                self.connection.execute(sql("rollback"))
        return Page(rows, Place(upto, timeline, digest.hex()))
