"""Looks at every box of a fleet: one LIST of heads for each store, and a GET for each head that has
changed since the last look. A window of boxes at a time: memory does not grow with the fleet, but
for the lists themselves.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.fleet.copies import copy_path, is_same
from edge_store.fleet.heads import LATE_AFTER_S
from edge_store.fleet.health.facts import Facts, facts_of
from edge_store.fleet.health.findings import Bounds, BoxHealth, Evidence, judge_box
from edge_store.fleet.health.known import Known, Memory
from edge_store.fleet.health.stores import Place, Store
from edge_store.ids import DeviceId
from edge_store.replica.bucket import Found
from edge_store.replica.extent import DEVICE_ID
from edge_store.replica.heads import Head
from edge_store.replica.objects import Entry

__all__ = ["Look", "Swept", "sweep"]

WINDOW = 256  # boxes
NS_PER_MS = 1_000_000


class Look(NamedTuple):
    """What is looked at, when (UTC ms), and from where on something is wrong. ``is_telling``: what
    is found is told to people now.
    """

    places: Sequence[Place]
    folder: Path | None
    bounds: Bounds
    now_ms: int
    is_telling: bool = False


class Swept(NamedTuple):
    """A box. ``new``: names of findings that people have not been told yet."""

    box: BoxHealth
    new: frozenset[str]
    was_read: bool  # its head, as it had changed


class Listed(NamedTuple):
    """A head in a list."""

    store: Store
    entry: Entry


class Changed(NamedTuple):
    """A head as it was read; None: it is none."""

    version: str | None
    head: Head | None


async def sweep(look: Look, memory: Memory) -> AsyncIterator[Swept]:
    """Every box, in order of device id.

    Raises:
        ReplicationError: a store does not answer.
    """
    heads: dict[DeviceId, Listed] = {}
    others: dict[DeviceId, list[str]] = defaultdict(list)
    refused_since = round(look.now_ms - 1000 * max(LATE_AFTER_S, look.bounds.late_after_s))
    for place in look.places:
        store = Store(place)
        await store.look()
        for device_id, entry in store.heads():
            other = heads.get(device_id)
            if other is not None:
                others[device_id].append(
                    f"it has a head in the store {other.store.name}, and one in {store.name}"
                )
            if other is None or other.entry.written_at < entry.written_at:
                heads[device_id] = Listed(store, entry)
        for device_id, said in await store.refused(refused_since):
            others[device_id].append(said)
    names = sorted(heads.keys() | _copied(look.folder))
    for start in range(0, len(names), WINDOW):
        known = {name: memory.recall(name) for name in names[start : start + WINDOW]}
        changed = await _changed(known, heads)
        for device_id, before in known.items():
            evidence, after = _seen(
                device_id, heads.get(device_id), before, changed.get(device_id), look
            )
            evidence = msgspec.structs.replace(evidence, others=tuple(others.get(device_id, ())))
            box = judge_box(evidence, look.bounds, look.now_ms)
            found = tuple(each.name for each in box.findings)
            memory.keep(msgspec.structs.replace(after, told=found) if look.is_telling else after)
            yield Swept(box, frozenset(found) - frozenset(after.told), device_id in changed)


def _copied(folder: Path | None) -> set[DeviceId]:
    if folder is None:
        return set()
    stems = (path.stem for path in folder.glob("*.db"))
    return {DeviceId(stem) for stem in stems if DEVICE_ID.fullmatch(stem)}


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
    )
    after = Known(
        device_id=device_id,
        version=version,
        head=head,
        facts=facts,
        behind_since=since,
        told=known.told,
    )
    return evidence, after


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
