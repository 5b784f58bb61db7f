"""What lies on a replica's path, seen from this box's history and Litestream's folder here."""

from edge_store.config import ReplicaMode, ReplicaSection
from edge_store.errors import ReplicaNotFound, ReplicationError, StoreError
from edge_store.replica.anew import Ground
from edge_store.replica.heads import Head, Heads
from edge_store.replica.lineage import Lineage, read_lineage
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.owner import Owner
from edge_store.replica.traffic import Ledger
from edge_store.replica.written import is_cut_off, is_whole, is_written_from
from edge_store.result import Boot
from edge_store.sqlite import DatabaseThread

__all__ = ["Past"]


class Past:
    """What lies on the path, seen from this box's history."""

    def __init__(
        self,
        section: ReplicaSection,
        boot: Boot,
        reader: DatabaseThread,
        ground: Ground,
        heads: Heads,
        ledger: Ledger,
    ) -> None:
        self._is_external = section.mode is ReplicaMode.EXTERNAL
        self._location = parse_location(section.url)
        self._keys = read_credentials(self._location)
        self._device_id = boot.device_id
        self._reader = reader
        self._ground = ground
        self._heads = heads
        self._ledger = ledger

    async def lineage(self, owner: Owner | None, head: Head | None) -> Lineage:
        """See ``read_lineage``.

        Raises:
            ReplicationError: the database cannot be read, for now at least.
        """
        boot_id, timeline = (owner.boot_id, owner.timeline) if owner else ("", "")
        try:
            return await self._reader.run(read_lineage, boot_id, timeline, head)
        except StoreError as exc:
            raise ReplicationError(str(exc), hint=exc.hint) from exc

    async def was_ours(self, *, had_it: bool) -> bool:
        """Whether what lies there without an owner was written from here. ``had_it``: the path was
        this boot's until it was emptied.
        """
        if self._ground.stand is not None:
            return True
        head = await self._heads.read()
        if head is not None and (await self.lineage(None, head)).holds_head:
            return True
        self._ledger.add("LIST", 1, 0)
        location, keys, ltx = self._location, self._keys, self._ground.ltx
        try:
            is_from_here = await is_written_from(ltx, location, keys, self._device_id)
        except ReplicaNotFound:
            return True
        if is_from_here and (had_it or not await is_whole(location, keys, self._device_id)):
            return True  # sent after somebody had emptied the place: begun anew
        # an operator's own may be up before the first claim
        return self._is_external and is_from_here and self._ground.adopt()

    async def is_cut_off(self) -> bool:
        """Whether Litestream's folder no longer leads on from what the replica has: the store has
        lost its newest files, and here those are merged and gone. Litestream waits for them.

        Raises:
            ReplicationError: the store does not answer.
        """
        self._ledger.add("LIST", 1, 0)
        return await is_cut_off(self._ground.ltx, self._location, self._keys, self._device_id)
