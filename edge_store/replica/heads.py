"""The head of a box: one small object that says how far its replica is. The fleet polls heads.

No clock is inside, so that the object of an idle box stays the same; its pulse is the store's own
time of the last PUT, which a heartbeat renews.
"""

import msgspec

from edge_store import __version__
from edge_store.errors import ReplicationError
from edge_store.ids import DeviceId
from edge_store.replica.objects import Found, Objects
from edge_store.result import Boot, Record
from edge_store.sql import sql
from edge_store.sqlite import Connection

__all__ = ["HEADS", "Head", "Heads", "read_head"]

HEADS = "heads"


class Head(Record, frozen=True, kw_only=True):
    """Everything up to ``seq`` is in the replica at ``txid``. ``digest``: of the newest commit that
    is, in hexadecimal: whoever holds the head can tell a file that was changed.
    """

    device_id: DeviceId
    timeline: str
    txid: int
    seq: int
    rows: int
    commit_id: int
    digest: str
    schema_version: int
    version: str = __version__


def read_head(connection: Connection, boot: Boot, *, txid: int, seq: int) -> Head:
    """The head of a replica that holds everything up to ``seq`` at ``txid``."""
    row = connection.execute(sql("select_head_state"), {"seq": seq}).fetchone()
    rows, commit_id, digest, schema_version = row
    return Head(
        device_id=boot.device_id,
        timeline=boot.timeline,
        txid=txid,
        seq=seq,
        rows=rows,
        commit_id=commit_id or 0,
        digest=(digest or b"").hex(),
        schema_version=schema_version,
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

    async def write(self, head: Head) -> bool:
        """Put it. Returns whether the store took it."""
        content = msgspec.json.format(msgspec.json.encode(head), indent=2)
        try:
            await self._objects.put(self._key, content)
        except ReplicationError:
            return False
        return True
