"""The head of a box: one small object that says how far its replica is. The fleet polls heads.

No clock is inside, so that the object of an idle box stays the same; its pulse is the store's own
time of the last PUT, which a heartbeat renews.
"""

from contextlib import suppress
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from edge_store import __version__
from edge_store.chain import Link, find_link
from edge_store.ids import DeviceId
from edge_store.replica.machine import MachineState
from edge_store.replica.objects import Found, Objects
from edge_store.result import Boot, Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "HEADS",
    "HEARTBEAT_S",
    "Counted",
    "Head",
    "Heads",
    "Proven",
    "holds_commit",
    "is_of_file",
    "read_head",
]

HEADS = "heads"
HEARTBEAT_S = 300.0  # while nothing changes, the same bytes are put there again after so long


class Proven(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A restore drill found everything up to ``seq``; its copy was at ``txid``, in hexadecimal."""

    txid: str
    seq: int


class Head(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Everything up to ``seq`` is in the replica at ``txid``. ``digest``: of the newest commit that
    is, in hexadecimal: whoever holds the head can tell a file that was changed.

    Centre and box may be of different versions: what one does not know of it passes over.
    """

    device_id: DeviceId
    timeline: str
    txid: int
    seq: int
    rows: int
    deletion_id: int  # the newest: ``rows`` is as of it
    commit_id: int
    digest: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    schema_version: int
    version: str = __version__
    proven: Proven | None = None
    machine: MachineState | None = None  # older boxes tell of none


class Counted(NamedTuple):
    """How many results up to ``seq`` there were, when the newest deletion was ``deletion_id``."""

    seq: int
    deletion_id: int
    rows: int


def read_head(
    connection: Connection, boot: Boot, txid: int, seq: int, before: Counted | None = None
) -> tuple[Head, Counted]:
    """The head of a replica that holds everything up to ``seq`` at ``txid``. Only the first has to
    count the table: after that, what came and went since ``before``.
    """
    with translated("the head cannot be read"):
        connection.execute(sql("begin_reading"))
        try:
            link = find_link(connection, seq) if seq else None
            counted = _counted(connection, seq, before)
            (schema_version,) = connection.execute(sql("select_schema_version")).fetchone()
        finally:
            with suppress(driver.Error):  # the failure may have ended it by itself
                connection.execute(sql("rollback"))
    head = Head(
        device_id=boot.device_id,
        timeline=boot.timeline,
        txid=txid,
        seq=seq,
        rows=counted.rows,
        deletion_id=counted.deletion_id,
        commit_id=link.commit_id if link else 0,
        digest=link.digest.hex() if link else "",
        schema_version=schema_version,
    )
    return head, counted


def _counted(connection: Connection, seq: int, before: Counted | None) -> Counted:
    if before is None or seq < before.seq:
        rows, deletion_id = connection.execute(sql("count_results"), {"seq": seq}).fetchone()
    else:
        since = {"seq": seq, "before": before.seq, "deletion_id": before.deletion_id}
        came, went, deletion_id = connection.execute(sql("count_results_since"), since).fetchone()
        rows = before.rows + came - went
    return Counted(seq, deletion_id, rows)


def is_of_file(connection: Connection, head: Head, boot: Boot) -> bool:
    """Whether this very file was replicated when the head was written: the newest commit that was
    is in it, as it was, and the box was not restored since.
    """
    if (head.device_id, head.timeline) != (boot.device_id, boot.timeline):
        return False
    with translated("the head cannot be compared with the file"):
        return holds_commit(find_link(connection, head.seq), head)


def holds_commit(link: Link | None, head: Head) -> bool:
    """Whether the commit that carried ``head.seq`` in some file is the one that the head names."""
    return link is not None and (link.commit_id, link.digest.hex()) == (
        head.commit_id,
        head.digest,
    )


class Heads:
    """Writes the head of one box."""

    def __init__(self, objects: Objects, device_id: DeviceId) -> None:
        self._objects = objects
        self._key = f"{HEADS}/{device_id}.json"

    async def read(self) -> Head | None:
        """The head as it lies there; None when there is none or it is not understood.

        Raises:
            ReplicationError: the store does not answer.
        """
        found = await self.find()
        return None if found is None else found[1]

    async def find(self) -> tuple[Found, Head] | None:
        """See ``read``; with the object, whose time is the box's pulse."""
        found = await self._objects.get(self._key)
        if found is None:
            return None
        try:
            return found, msgspec.json.decode(found.content, type=Head)
        except msgspec.DecodeError:
            return None

    async def write(self, head: Head) -> None:
        """Put it.

        Raises:
            ReplicationError: the store does not take it.
        """
        content = msgspec.json.format(msgspec.json.encode(head), indent=2)
        await self._objects.put(self._key, content)
