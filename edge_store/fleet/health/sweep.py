"""Looks at every box of a fleet: one LIST of heads for each store, once an hour one of its folders,
and a GET for each head that has changed since the last look. A window of boxes at a time: memory
does not grow with the fleet, but for the lists themselves.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.errors import ReplicationError
from edge_store.fleet.copies import copy_path, is_same, last_standing
from edge_store.fleet.find import Place, Unlisted
from edge_store.fleet.heads import LATE_AFTER_S
from edge_store.fleet.health.facts import Facts, facts_of
from edge_store.fleet.health.findings import Bounds, BoxHealth, Evidence, judge_box
from edge_store.fleet.health.known import Known, Memory
from edge_store.fleet.health.stores import Store
from edge_store.fleet.met import Met, read_met
from edge_store.ids import DeviceId
from edge_store.replica.bucket import Found
from edge_store.replica.extent import DEVICE_ID
from edge_store.replica.heads import Head
from edge_store.replica.objects import Entry

__all__ = ["Look", "Sweep", "Swept"]

WINDOW = 256  # boxes
NS_PER_MS = 1_000_000


class Look(NamedTuple):
    """What is looked at, when (UTC ms), and from where on something is wrong. ``chooses``: which
    boxes of those that the registry takes. ``is_telling``: what is found is told to people now.
    """

    places: Sequence[Place]
    folder: Path | None
    bounds: Bounds
    now_ms: int
    chooses: Callable[[DeviceId], bool] = lambda _device_id: True
    is_telling: bool = False


class Swept(NamedTuple):
    """A box. ``new``: names of findings that people have not been told yet."""

    box: BoxHealth
    new: frozenset[str]
    was_read: bool  # its head, as it had changed


class Listed(NamedTuple):
    """A head in a list; ``is_alone``: no replica is beside it."""

    store: Store
    entry: Entry
    is_alone: bool


class Changed(NamedTuple):
    """A head as it was read; None: it is none."""

    version: str | None
    head: Head | None


class Sweep:
    """One look at all boxes. ``unlisted`` are the stores that do not answer: their boxes stay as
    they are known.
    """

    def __init__(self, look: Look, memory: Memory) -> None:
        self._look = look
        self._memory = memory
        self._stores: dict[str, Store] = {}
        self._heads: dict[DeviceId, Listed] = {}
        self._others: dict[DeviceId, list[str]] = defaultdict(list)
        self._met = read_met(look.folder) if look.folder is not None else {}
        self.unlisted: list[Unlisted] = []

    async def boxes(self) -> AsyncIterator[Swept]:
        """Every box, in order of device id."""
        for place in self._look.places:
            try:
                await self._list(Store(place, self._look.chooses))
            except ReplicationError as exc:
                failed = Unlisted(store=place.name, error=str(exc), code=exc.code, hint=exc.hint)
                self.unlisted.append(failed)
        self._memory.looks_at = lambda known: self._is_ours(known.device_id, known.location)
        names = sorted(self._heads.keys() | self._copied())
        for start in range(0, len(names), WINDOW):
            known = {name: self._memory.recall(name) for name in names[start : start + WINDOW]}
            changed = await _changed(known, self._heads)
            for device_id, before in known.items():
                yield self._judged(device_id, before, changed.get(device_id))
        self._memory.finish()

    async def _list(self, store: Store) -> None:
        look = self._look
        since = round(look.now_ms - 1000 * max(LATE_AFTER_S, look.bounds.late_after_s))
        await store.look()
        refused = await store.refused(since)
        alone = await store.alone(look.folder) if look.folder is not None else frozenset()
        self._stores[store.location] = store
        for device_id, entry in store.heads():
            other = self._heads.get(device_id)
            if other is not None:
                self._others[device_id].append(
                    f"it has a head in the store {other.store.name}, and one in {store.name}"
                )
            if other is None or other.entry.written_at < entry.written_at:
                self._heads[device_id] = Listed(store, entry, device_id in alone)
        for device_id, said in refused:
            self._others[device_id].append(said)

    def _is_ours(self, device_id: DeviceId, location: str) -> bool:
        """Whether it would be in a list if it were there."""
        store = self._stores.get(location)
        return store is not None and store.takes(device_id)

    def _copied(self) -> set[DeviceId]:
        """Boxes that are known by their copies from these stores alone."""
        folder = self._look.folder
        found: set[DeviceId] = set()
        for path in folder.glob("*.db") if folder is not None else ():
            device_id = DeviceId(path.stem)
            if device_id not in self._heads and DEVICE_ID.fullmatch(device_id):
                standing = last_standing(path)
                if standing is not None and self._is_ours(device_id, standing.location):
                    found.add(device_id)
        return found

    def _judged(self, device_id: DeviceId, before: Known | None, changed: Changed | None) -> Swept:
        look, others = self._look, tuple(self._others.get(device_id, ()))
        listed = self._heads.get(device_id)
        evidence, after = _seen(device_id, listed, before, changed, look)
        met = _met_there(self._met.get(device_id), listed)
        evidence = msgspec.structs.replace(evidence, others=others, met=met)
        box = judge_box(evidence, look.bounds, look.now_ms)
        found = tuple(each.name for each in box.findings)
        self._memory.keep(msgspec.structs.replace(after, told=found) if look.is_telling else after)
        return Swept(box, frozenset(found) - frozenset(after.told), changed is not None)


async def _changed(
    known: dict[DeviceId, Known | None], heads: dict[DeviceId, Listed]
) -> dict[DeviceId, Changed]:
    """The heads of these boxes that are not as they are known."""
    asked: dict[Store, list[DeviceId]] = defaultdict(list)
    for device_id, before in known.items():
        listed = heads.get(device_id)
        if listed is None or (before and is_same(listed.entry.version, before.version)):
            continue
        asked[listed.store].append(device_id)
    changed: dict[DeviceId, Changed] = {}
    for store, names in asked.items():
        found = await store.read([heads[name].entry.key for name in names])
        for name, each in zip(names, found, strict=True):
            changed[name] = _decoded(each)
    return changed


def _decoded(found: Found | None) -> Changed:
    if found is None:
        return Changed(None, None)
    try:
        head = msgspec.json.decode(found.content, type=Head)
    except msgspec.DecodeError:
        head = None
    return Changed(found.version.get("e_tag"), head)


def _seen(
    device_id: DeviceId,
    listed: Listed | None,
    before: Known | None,
    changed: Changed | None,
    look: Look,
) -> tuple[Evidence, Known]:
    """All that is known of a box now, and what is to be remembered."""
    known = before or Known(device_id=device_id)
    if listed is None:
        changed = Changed(None, None)
    version, head = changed or (known.version, known.head)
    facts = None
    if look.folder is not None:
        facts = facts_of(copy_path(look.folder, device_id), head, known.facts)
    since = _behind_since(head, facts, before, look) if look.folder is not None else None
    evidence = Evidence(
        device_id=device_id,
        store=listed.store.name if listed else "",
        head_at=listed.entry.written_at if listed else None,
        head=head,
        facts=facts,
        behind_since=since,
        is_alone=listed is not None and listed.is_alone,
    )
    after = Known(
        device_id=device_id,
        location=listed.store.location if listed else known.location,
        version=version,
        head=head,
        facts=facts,
        behind_since=since,
        told=known.told,
    )
    return evidence, after


def _met_there(met: Met | None, listed: Listed | None) -> Met | None:
    """Unless it was in another store than the head's."""
    is_other = met is not None and listed is not None and met.location != listed.store.location
    return None if is_other else met


def _behind_since(
    head: Head | None, facts: Facts | None, before: Known | None, look: Look
) -> int | None:
    """Since when the head is ahead of the copy, as far as is known here. A new copy begins anew,
    even if the box has gone on since: it was pulled.
    """
    if head is None or not head.seq or (facts is not None and facts.error is not None):
        return None
    if facts is not None and facts.timeline == head.timeline and facts.seq >= head.seq:
        return None
    if before is None:
        return facts.modified_ns // NS_PER_MS if facts is not None else look.now_ms
    is_same = _file(facts) == _file(before.facts)
    return before.behind_since if is_same and before.behind_since else look.now_ms


def _file(facts: Facts | None) -> tuple[int, int] | None:
    return (facts.size, facts.modified_ns) if facts is not None else None
