"""Finds the boxes that are to be pulled: by the listings of their stores, and what is asked for."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_store.errors import BoxFoundTwice, ConfigError, EdgeStoreError, ReplicationError
from edge_store.fleet.headless import boxes_of
from edge_store.fleet.heads import list_heads
from edge_store.fleet.registry import Registry, Store
from edge_store.ids import DeviceId
from edge_store.replica.location import Location, read_credentials
from edge_store.replica.objects import Entry, Objects
from edge_store.result import Record

__all__ = ["Choice", "Found", "FoundBox", "Place", "Unlisted", "find_boxes", "places_of"]


class Place(Record, frozen=True, kw_only=True):
    """Where to look. ``store`` is what the registry says of it, if it does."""

    location: Location
    store: Store | None = None

    @property
    def name(self) -> str:
        """For reports."""
        return self.store.name if self.store else str(self.location)


class Choice(Record, frozen=True, kw_only=True):
    """Which boxes: those that have all labels of ``group``, and whose head was put at ``since``
    (UTC ms) or later; a box without a head only where no ``since`` is given.
    """

    registry: Registry
    group: Mapping[str, str]
    since: int | None = None


class FoundBox(Record, frozen=True, kw_only=True):
    """A box, and where its replica lies. ``head`` as it was just listed; None when it has none.
    ``is_alone``: there is a head, and no replica was found.
    """

    device_id: DeviceId
    location: Location
    head: Entry | None = None
    store: str = ""
    is_alone: bool = False


class Unlisted(Record, frozen=True, kw_only=True):
    """A store whose boxes are not known now."""

    store: str
    error: str
    code: str
    hint: str


class Found(Record, frozen=True, kw_only=True):
    """The chosen boxes in order of name; ``others`` are there, too. ``twice``: those that are in
    more than one store, so that nobody can tell which replica is the box's; with the reason.
    ``unseen``: boxes whose folder could not be looked into now, and why. ``there``: who may be at
    each location, chosen or not; of those alone whose boxes were all listed just now.
    """

    boxes: tuple[FoundBox, ...]
    twice: Mapping[DeviceId, BoxFoundTwice]
    unlisted: tuple[Unlisted, ...]
    others: int
    unseen: Mapping[DeviceId, str]
    there: Mapping[str, frozenset[DeviceId]]


def places_of(registry: Registry) -> list[Place]:
    """Every store of the registry. Raises ``ConfigError``: there is none, or a URL is wrong."""
    if not registry.stores:
        raise ConfigError(
            "there is no store to pull from", hint="give --from, or [[stores]] in fleet.toml"
        )
    return [Place(location=store.location(), store=store) for store in registry.stores]


async def find_boxes(places: Sequence[Place], choice: Choice, into: Path | None = None) -> Found:
    """Ask all of them. One that does not answer is told of, and does not keep the others. ``into``:
    the folder of the copies.

    Raises:
        ConfigError: there are no keys for one.
    """
    chosen: dict[DeviceId, list[FoundBox]] = defaultdict(list)
    unlisted, others = [], 0
    unseen: dict[DeviceId, str] = {}
    there: dict[str, frozenset[DeviceId]] = {}
    answers = await asyncio.gather(
        *(_listed(place, choice, into) for place in places), return_exceptions=True
    )
    for place, answer in zip(places, answers, strict=True):
        if isinstance(answer, EdgeStoreError) and not isinstance(answer, ConfigError):
            unlisted.append(
                Unlisted(store=place.name, error=str(answer), code=answer.code, hint=answer.hint)
            )
        elif isinstance(answer, BaseException):
            raise answer
        else:
            others += len(answer.boxes) - len(answer.chosen)
            unseen |= {name: str(error) for name, error in answer.unseen.items()}
            if answer.is_listed:
                those = (box.device_id for box in answer.boxes)
                there[str(place.location)] = frozenset([*those, *answer.unseen])
            for box in answer.chosen:
                chosen[box.device_id].append(box)
    return Found(
        boxes=tuple(chosen[name][0] for name in sorted(chosen) if len(chosen[name]) == 1),
        twice={name: _twice(boxes) for name, boxes in sorted(chosen.items()) if len(boxes) > 1},
        unlisted=tuple(unlisted),
        others=others,
        unseen=unseen,
        there=there,
    )


class _Listed(NamedTuple):
    boxes: list[FoundBox]
    chosen: list[FoundBox]
    unseen: Mapping[DeviceId, ReplicationError]
    is_listed: bool  # all that are there were, just now


async def _listed(place: Place, choice: Choice, into: Path | None) -> _Listed:
    """The boxes of one place, and the chosen ones among them."""
    credentials = read_credentials(place.location)
    heads = await list_heads(Objects(place.location, credentials, makes_folder=False))
    if choice.since is None:
        devices, alone, unseen, is_listed = await boxes_of(place.location, credentials, heads, into)
    else:
        devices, alone, unseen, is_listed = sorted(heads), frozenset(), {}, False
    boxes = [
        FoundBox(
            device_id=device_id,
            location=place.location,
            head=heads.get(device_id),
            store=place.store.name if place.store else "",
            is_alone=device_id in alone,
        )
        for device_id in devices
    ]
    those = [box for box in boxes if _is_chosen(box, place.store, choice)]
    return _Listed(boxes, those, unseen, is_listed)


def _is_chosen(box: FoundBox, store: Store | None, choice: Choice) -> bool:
    if store is not None and not store.takes(box.device_id):
        return False
    if not choice.registry.is_labelled(box.device_id, choice.group):
        return False
    return choice.since is None or (box.head is not None and box.head.written_at >= choice.since)


def _twice(boxes: Sequence[FoundBox]) -> BoxFoundTwice:
    where = " and ".join(box.store or str(box.location) for box in boxes)
    return BoxFoundTwice(
        f"{boxes[0].device_id} is in {where}: which is its replica?",
        hint="exclude it in all but one of them, in fleet.toml",
    )
