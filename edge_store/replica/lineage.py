"""What a database knows of who wrote its replica: is it the same history, and all of it?"""

from edge_store.replica.heads import Head
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["Lineage", "read_lineage"]


class Lineage(Record, frozen=True, kw_only=True):
    """``knows_boot``, ``has_ended``: the boot that wrote is in the file, and so is its clean end.
    ``knows_timeline``: its timeline is. ``holds_head``: the newest commit that is known to be in
    the replica is in the file. ``was_restored``: the file was, and nothing else came after.
    """

    knows_boot: bool
    has_ended: bool
    knows_timeline: bool
    holds_head: bool
    was_restored: bool


def read_lineage(connection: Connection, boot_id: str, timeline: str, head: Head | None) -> Lineage:
    """What the file knows of a boot, of a timeline and of a head.

    Raises:
        StoreError: it cannot be read.
    """
    asked = {
        "boot_id": boot_id,
        "timeline": timeline,
        "commit_id": head.commit_id if head else 0,
    }
    with translated("whose replica it is cannot be read from the database"):
        row = connection.execute(sql("select_lineage"), asked).fetchone()
    knows_boot, has_ended, knows_timeline, reason, digest = row
    return Lineage(
        knows_boot=bool(knows_boot),
        has_ended=bool(has_ended),
        knows_timeline=bool(knows_timeline),
        holds_head=head is None or (digest or b"").hex() == head.digest,
        was_restored=reason == "restored",
    )
