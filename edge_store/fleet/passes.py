"""A pass over the fleet: read the registry, find the boxes, pull them, say what became of it.

``watch`` makes one after another. Only the first may fail with an error of the operator's; after
that a store that is away or a mistake in ``fleet.toml`` is told of, and the next pass tries again.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import ConfigError, EdgeStoreError, NotFound, StoreError
from edge_store.fleet.budget import Evicted, copies_bytes
from edge_store.fleet.departed import NOTHING, Taken
from edge_store.fleet.find import Choice, Place, Unlisted, find_boxes, places_of
from edge_store.fleet.pull import PullPlan, pull
from edge_store.fleet.registry import Registry, load_registry
from edge_store.fleet.report import BoxReport, How
from edge_store.ids import DeviceId
from edge_store.replica.location import Location
from edge_store.result import Record

if TYPE_CHECKING:
    from edge_store.fleet.lake.held import Held

__all__ = ["Asked", "PassReport", "disk_errors", "keep_report", "run_pass", "watch"]


class Asked(Record, frozen=True, kw_only=True):
    """What to pull. ``location``: that place only, else the stores of the registry. See ``Choice``
    for the others.
    """

    plan: PullPlan
    location: Location | None
    group: Mapping[str, str]
    since: int | None


class PassReport(Record, frozen=True, kw_only=True):
    """What a pass came to; times are UTC ms. ``others``: boxes that were there and not asked for.
    ``unlisted``: stores that did not answer; ``unseen``: boxes whose folder did not, with why.
    ``evicted`` at the beginning; boxes tell of theirs. ``left``: boxes that are in their store no
    more; that pulls of them had failed is forgotten.
    ``copies_bytes``: what the folder's copies take at the end; ``over_disk_max``: that this is more
    than they may, and why.
    """

    began_at: int
    seconds: float
    boxes: tuple[BoxReport, ...]
    others: int
    unlisted: tuple[Unlisted, ...]
    evicted: tuple[Evicted, ...]
    copies_bytes: int
    over_disk_max: str | None = None
    unseen: Mapping[DeviceId, str] = {}
    left: tuple[DeviceId, ...] = ()

    @property
    def failed(self) -> int:
        """How many boxes."""
        return sum(box.error is not None for box in self.boxes)

    @property
    def unchanged(self) -> int:
        """How many boxes."""
        return sum(box.how is How.UNCHANGED for box in self.boxes)

    @property
    def is_good(self) -> bool:
        """Whether every store answered, and every box is here."""
        return not self.failed and not self.unlisted


async def run_pass(
    asked: Asked,
    on_found: Callable[[int], None] = lambda _boxes: None,
    on_report: Callable[[BoxReport], None] = lambda _report: None,
) -> PassReport:
    """Make one. ``on_found`` is told how many boxes there will be a report of.

    Raises:
        ConfigError: ``fleet.toml`` is wrong, or there are no keys for a store.
        NotFound: no box has the labels.
        AlreadyRunning, StoreError: see ``pull``.
    """
    began_at, began = now_ms(), time.monotonic()
    into = asked.plan.manner.into
    registry = load_registry(into)
    places = [Place(location=asked.location)] if asked.location else places_of(registry)
    choice = Choice(registry=registry, group=asked.group, since=asked.since)
    found = await find_boxes(places, choice, into)
    if asked.group and asked.since is None and not (found.boxes or found.twice or found.unlisted):
        labels = ", ".join(f"{name}={value}" for name, value in asked.group.items())
        raise NotFound(
            f"none of {found.others} boxes has the label {labels}",
            hint="`edge-store fleet ls` shows the labels; `edge-store fleet label` sets them",
        )
    on_found(len(found.boxes) + len(found.twice))
    twice = [
        BoxReport(device_id=device_id, error=str(error), code=error.code)
        for device_id, error in found.twice.items()
    ]
    for report in twice:
        on_report(report)
    pulled = await pull(_planned(asked.plan, registry), found.boxes, on_report, found.there)
    return PassReport(
        began_at=began_at,
        seconds=round(time.monotonic() - began, 3),
        boxes=(*pulled.reports, *twice),
        others=found.others,
        unlisted=found.unlisted,
        evicted=tuple(pulled.evicted),
        copies_bytes=copies_bytes(into),
        over_disk_max=pulled.over,
        unseen=found.unseen,
        left=tuple(pulled.left),
    )


def _planned(plan: PullPlan, registry: Registry) -> PullPlan:
    """Where there is a lake, only what it has goes: to make room, or as its box has deleted it."""
    lake = registry.lake
    if lake is None:
        return plan

    @cache
    def held() -> "Held":
        from edge_store.fleet.lake.held import Held  # noqa: PLC0415  (1 s, and an extra of its own)

        return Held(lake)

    def taken(copy: Path) -> Taken:
        try:
            return held().taken(copy)
        except ConfigError:  # whoever exports to it is told
            return NOTHING

    manner = msgspec.structs.replace(plan.manner, taken=taken)
    may_go = plan.may_go if plan.disk_max is None else held().has_all
    return msgspec.structs.replace(plan, manner=manner, may_go=may_go)


async def watch(
    every_s: float,
    one_pass: Callable[[], Awaitable[None]],
    on_error: Callable[[EdgeStoreError], None],
) -> None:
    """Make a pass every ``every_s``, or at once after one that took longer. Ends by cancellation.

    Raises what the first one raises.
    """
    is_first = True
    while True:
        began = time.monotonic()
        try:
            with disk_errors("the pull"):
                await one_pass()
        except EdgeStoreError as exc:
            if is_first:
                raise
            on_error(exc)
        is_first = False
        await asyncio.sleep(max(0.0, every_s - (time.monotonic() - began)))


@contextmanager
def disk_errors(what: str | Path) -> Iterator[None]:
    """Raises ``StoreError`` for what the operating system refuses, with the file's name or
    ``what``; but not that the reader of standard output has left.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise StoreError(
            f"{exc.filename or what}: {exc.strerror or exc}",
            hint="check its disk's space (`df`), its owner and mode; then pull again",
        ) from exc


def keep_report(report: PassReport, path: Path) -> None:
    """Write it as JSON, in the place of the one before. Raises ``StoreError``: it cannot."""
    writing = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            writing.write_bytes(msgspec.json.encode(report, enc_hook=str) + b"\n")
            writing.replace(path)
        except OSError as exc:
            writing.unlink(missing_ok=True)
            raise OSError(exc.errno, exc.strerror, str(path)) from exc
