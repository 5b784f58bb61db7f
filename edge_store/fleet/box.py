"""One box of a pull: left alone, brought forward, or restored; and what is to be said of it.

See pull.py for what holds for all of them, advance.py for how a copy is brought forward.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import EdgeStoreError, ReplicaBehind, StoreError, VerifyFailed
from edge_store.fleet.advance import Limits, advance, holds_told
from edge_store.fleet.budget import DiskBudget
from edge_store.fleet.copies import (
    Standing,
    copy_path,
    is_of_file,
    is_restore_due,
    is_same,
    keep_standing,
    last_standing,
    tells_nothing_new,
    witnesses_of,
)
from edge_store.fleet.find import FoundBox
from edge_store.fleet.forget import forget_in_all
from edge_store.fleet.history import (
    Kept,
    drop_twin,
    look_up_end,
    settle,
    settle_continued,
    timeline_of,
)
from edge_store.fleet.report import DAY_S, BoxReport, Flag, How, Manner
from edge_store.replica.heads import Head, Heads
from edge_store.replica.location import Credentials
from edge_store.replica.objects import Found, Objects
from edge_store.replica.onwards import NotOnwards
from edge_store.replica.points import LtxFile, Txid, list_files
from edge_store.replica.restore import damaged_path, restore
from edge_store.replica.scratch import discard_scratch, is_begun
from edge_store.schema import SCHEMA_VERSION
from edge_store.search.file import index_of_copy

__all__ = ["BoxPull"]


class BoxPull:
    """One box of a pull. ``older``: its copies that are kept beside."""

    def __init__(
        self,
        box: FoundBox,
        manner: Manner,
        credentials: Credentials | None,
        objects: Objects,
        budget: DiskBudget | None,
        older: Sequence[Path] = (),
    ) -> None:
        self._box = box
        self._manner = manner
        self._credentials = credentials
        self._heads = Heads(objects, box.device_id)
        self._budget = budget
        self._older = set(older)
        self._path = copy_path(manner.into, box.device_id)
        self._index = index_of_copy(self._path)
        self._report = BoxReport(device_id=box.device_id, store=box.store)
        self._before: Standing | None = None  # what was written down of the copy that is replaced
        self._schema_version: int | None = None  # of the copy as this pull has made it

    async def pull(self) -> BoxReport:
        """Bring its copy up to date. Raises nothing of its own: what failed is in the report. It
        may be called again after a failure.
        """
        self._say(error=None, code=None, flags=())
        self._schema_version = None
        try:
            await self._pull()
        except (EdgeStoreError, OSError) as exc:
            code = exc.code if isinstance(exc, EdgeStoreError) else StoreError.code
            self._say(error=str(exc), code=code)
        except AssertionError:  # ours to mend, not the box's
            raise
        except Exception as exc:  # noqa: BLE001  (what one box has written ends no other's pull)
            said = f"what it has written cannot be taken in: {exc!r}"
            self._say(error=said, code=VerifyFailed.code)
        return self._report

    def _say(self, **of_it: object) -> None:
        self._report = msgspec.structs.replace(self._report, **of_it)

    async def _pull(self) -> None:
        listed = self._box.head
        self._drop_twins()
        self._before = last_standing(self._path)
        here = self._before
        if here is not None and not is_of_file(here, self._path, str(self._box.location)):
            here = None
        because, usable = self._usable(here)
        if usable is not None and listed and is_same(listed.version, usable.head_version):
            await self._left(usable)
            return
        found = await self._heads.find() if listed else None
        if usable is not None and found is not None and tells_nothing_new(found[1], usable.head):
            version, content = found[0].version.get("e_tag"), found[0].content.decode()
            usable = msgspec.structs.replace(usable, head=content, head_version=version)
            await asyncio.to_thread(keep_standing, self._path, usable)
            await self._left(usable)
            return
        standing, is_behind = None, False
        if usable is not None and found is not None:
            try:
                standing = await self._advanced(usable, found[1])
            except NotOnwards as exc:
                because = str(exc)
        if standing is None:
            standing = await self._restored(here, because)
            if found is not None:
                is_behind = standing.txid < found[1].txid
                is_behind = is_behind or not await asyncio.to_thread(
                    holds_told, self._path, found[1]
                )
        if listed and found is None:
            self._say(flags=(*self._report.flags, Flag.HEAD_UNREADABLE))
        await self._took(standing, found, is_behind=is_behind)

    async def _took(
        self, standing: Standing, found: tuple[Found, Head] | None, *, is_behind: bool
    ) -> None:
        """A copy that is in its place."""
        standing = msgspec.structs.replace(standing, renewed_at=now_ms())
        if found is not None and not is_behind:  # else the next pull looks again
            version, content = found[0].version.get("e_tag"), found[0].content.decode()
            standing = msgspec.structs.replace(standing, head=content, head_version=version)
        waits = self._before and self._before.not_forgotten
        if standing.end is None or self._older or waits or self._index.exists():
            await asyncio.to_thread(self._keep, standing)
        else:  # nothing to look into but what is known: a hop to a thread would be most of it
            self._keep(standing)
        if is_behind:
            assert found is not None
            raise ReplicaBehind(
                f"its head tells of seq {found[1].seq} at TXID {found[1].txid:016x}, and that is "
                f"not in its replica, which leads to {standing.txid:016x}: that is here now",
                hint="files are missing there, or the box has just begun anew: pull again",
            )

    def _keep(self, standing: Standing) -> None:
        """What follows from a copy that is in its place. On a thread."""
        version = self._schema_version
        if version is None:
            version, end = look_up_end(self._path)
            standing = msgspec.structs.replace(standing, end=end)
        if version > SCHEMA_VERSION:
            self._say(flags=(*self._report.flags, Flag.SCHEMA_NEWER))
            standing = msgspec.structs.replace(standing, restored_txid=Txid(0))  # not all checked
        before = self._before.not_forgotten if self._before else ()
        names = {*before, *(path.name for path in self._older)}
        if self._index.exists():  # whose words nothing else would tell of after a kill
            names.add(self._index.name)
        standing = msgspec.structs.replace(standing, not_forgotten=tuple(sorted(names)))
        keep_standing(self._path, standing)
        self._forget(standing)

    def _forget(self, here: Standing) -> None:
        """In the older copies and in the index beside the newest one, where that is still to be
        done; what fails is for the next pull.
        """
        damaged = damaged_path(self._path)
        if damaged.exists():  # it holds what the box has forgotten, too
            damaged.unlink()
            self._say(removed=damaged)
        if not here.not_forgotten:
            return
        those = map(self._path.with_name, here.not_forgotten)
        forgotten, failed = forget_in_all(self._path, those)
        self._say(forgotten=forgotten, not_forgotten=failed)
        if (left := tuple(path.name for path in failed)) != here.not_forgotten:
            keep_standing(self._path, msgspec.structs.replace(here, not_forgotten=left))

    def _usable(self, here: Standing | None) -> tuple[str | None, Standing | None]:
        """What may be gone on from; and why not, where there is a reason."""
        if here is None or self._manner.is_full:
            return None, None
        every_s = self._manner.full_every_s
        if every_s and is_restore_due(here, self._path, now_ms(), every_s):
            days = (now_ms() - here.restored_at) / 1000 / DAY_S
            return f"it is {days:.1f} days since all of it was checked", None
        return None, here

    async def _left(self, here: Standing) -> None:
        """A copy that is as it should be: most of a fleet, so there is no hop to a thread for it
        unless there is something to tidy.
        """
        if here.not_forgotten or is_begun(self._path) or damaged_path(self._path).exists():
            await asyncio.to_thread(self._tidy, here)
        self._say(how=How.UNCHANGED, results=here.results, newest_at=here.newest_at)

    def _tidy(self, here: Standing) -> None:
        """On a thread."""
        discard_scratch(self._path)
        self._forget(here)

    async def _advanced(self, here: Standing, head: Head) -> Standing:
        """Bring the copy forward. Raises ``NotOnwards``."""
        try:
            done = await advance(
                self._box.location,
                self._credentials,
                self._path,
                here=here,
                head=head,
                limits=Limits(
                    timeout_s=self._manner.timeout_s,
                    pace=self._manner.pace,
                    before_replacing=self._set_aside_continued,
                ),
            )
        finally:
            self._drop_twins()  # the new one may not have taken its place
        self._schema_version = done.schema_version
        newest_at = done.end.commit.at if done.end.commit else None
        self._say(
            how=How.ADVANCED,
            downloaded_bytes=done.downloaded_bytes,
            results=done.results,
            newest_at=newest_at,
        )
        return msgspec.structs.replace(
            here,
            txid=done.txid,
            witnesses=done.witnesses,
            results=done.results,
            newest_at=newest_at,
            end=done.end,
        )

    async def _restored(self, here: Standing | None, because: str | None) -> Standing:
        """Make the copy anew. ``here``: what is known of the one that is there."""
        location, device_id = self._box.location, self._box.device_id
        files = await list_files(location, self._credentials, device_id)
        try:
            restored = await restore(
                location,
                device_id,
                self._path,
                timeout_s=self._manner.timeout_s,
                may_be_newer=True,
                before_replacing=lambda new: self._settle(new, here, files),
                pace=self._manner.pace,
                by_litestream=self._manner.is_full or self._path.exists(),  # nothing odd is known
            )
        finally:
            self._drop_twins()  # the new one may not have taken its place
        txid = Txid(int(restored.txid, 16))
        self._say(
            how=How.RESTORED,
            because=because,
            downloaded_bytes=restored.downloaded_bytes,
            results=restored.results,
            newest_at=restored.newest_at,
        )
        return Standing(
            location=str(location),
            txid=txid,
            witnesses=witnesses_of(files, txid),
            results=restored.results,
            newest_at=restored.newest_at,
            head=None,
            head_version=None,
            restored_at=now_ms(),
            restored_txid=txid,
        )

    def _settle(self, new: Path, here: Standing | None, files: list[LtxFile]) -> None:
        """Make room for the new copy, on a thread, and say what is odd of it."""
        before = None
        with suppress(StoreError):  # it may be damaged
            before = timeline_of(self._path) if self._path.exists() else None
        is_same = before is not None and before == timeline_of(new)
        kept = self._set_aside(new)
        flags = []
        if is_same and kept is not None and not kept.is_continued:
            flags.append(Flag.FORKED)
        if is_same and here is not None and max(file.last for file in files) < here.txid:
            flags.append(Flag.TXID_REGRESSED)
        self._say(flags=tuple(flags))

    def _set_aside_continued(self, new: Path, has_retired: bool) -> None:  # noqa: FBT001
        """Before a copy that was brought forward takes its place. On a thread."""
        if has_retired:
            self._set_aside(new, settle_continued)
        else:
            self._make_room(new, is_kept=False)

    def _set_aside(self, new: Path, settling: Callable[..., Kept | None] = settle) -> Kept | None:
        """Keep the older copy beside where it has what the new one lacks; else it will go."""

        def settled() -> Kept | None:
            return settling(self._path, new, sorted(self._older), self._manner.taken)

        kept = self._budget.settled(settled) if self._budget else settled()
        self._say(kept=kept and kept.path, is_continued=kept is not None and kept.is_continued)
        if kept is not None:
            self._older.add(kept.path)
        self._make_room(new, is_kept=kept is not None)
        return kept

    def _drop_twins(self) -> None:
        """Of what was kept aside when the pull ended before the new copy took the older's place."""
        kept = self._report.kept
        for older in [*self._older]:
            if (older == kept or _is_same_file(older, self._path)) and drop_twin(older, self._path):
                self._older.remove(older)
                if older == kept:
                    self._say(kept=None, is_continued=False)
        if kept is not None and self._budget is not None:
            self._budget.release(kept)

    def _make_room(self, new: Path, *, is_kept: bool) -> None:
        """Have the new copy fit into what the folder may take. On a thread."""
        if self._budget is None:
            return
        gone = self._path.stat().st_size if not is_kept and self._path.exists() else 0
        evicted = self._budget.make_room(new.stat().st_size - gone)
        self._say(evicted=(*self._report.evicted, *evicted))


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
