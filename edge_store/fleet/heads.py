"""What the heads of the boxes say to a centre: which are idle, late, dead, or not what they were.

One LIST gives every box's pulse: a head has no clock inside, and is put again every five minutes
while everything that its box has committed is in the replica. So a box that has no network and one
whose replica is stuck are late alike. Times of the pulse are the store's, "now" is ours.
"""

import asyncio
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from edge_store.chain import Link, find_link
from edge_store.errors import EdgeStoreError
from edge_store.fleet.copies import copy_path
from edge_store.ids import DeviceId
from edge_store.replica.extent import DEVICE_ID
from edge_store.replica.heads import HEADS, HEARTBEAT_S, Head, Heads, holds_commit
from edge_store.replica.objects import Entry, Objects
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import open_reader, translated

__all__ = [
    "BAD",
    "DEAD_AFTER_S",
    "LATE_AFTER_S",
    "SUFFIX",
    "Copy",
    "HeadState",
    "Judged",
    "Seen",
    "judge_head",
    "judged_heads",
    "list_heads",
    "read_copy",
    "read_heads",
]  # fmt: skip

LATE_AFTER_S = 2 * HEARTBEAT_S + 60.0  # two were missed
DEAD_AFTER_S = 86_400.0
SUFFIX = ".json"
GETS_AT_A_TIME = 16


class HeadState(StrEnum):
    """What a box is, by its head."""

    ALIVE = "alive"  # and has something that the copy here has not, if there is a copy
    IDLE = "idle"  # alive, and everything is here
    LATE = "late"  # no pulse for a while: no network, or its replica is behind and stuck
    DEAD = "dead"  # none for so long that somebody should go there
    TAMPERED = "tampered"  # head and copy are of one history, and contradict each other
    UNREADABLE = "unreadable"  # its object is no head


BAD = frozenset({HeadState.DEAD, HeadState.TAMPERED, HeadState.UNREADABLE})  # somebody is to look


class Seen(Record, frozen=True, kw_only=True):
    """A head as it lies in the store. ``pulse_at``: UTC ms of its last PUT."""

    device_id: DeviceId
    pulse_at: int
    head: Head | None


class Copy(Record, frozen=True, kw_only=True):
    """A copy of a box, beside a head: its newest result, and the commit that carried ``head.seq``
    here; None if it ends before.
    """

    timeline: str | None
    seq: int
    link: Link | None


class Judged(Record, frozen=True, kw_only=True):
    """``message`` says it in words."""

    device_id: DeviceId
    state: HeadState
    message: str
    pulse_age_s: float
    head: Head | None


def judge_head(
    seen: Seen,
    now_ms: int,
    copy: Copy | None = None,
    *,
    late_after_s: float = LATE_AFTER_S,
    dead_after_s: float = DEAD_AFTER_S,
) -> Judged:
    """What a head says of its box; with a copy, also whether that is what the head says it is."""
    age_s = max(0.0, (now_ms - seen.pulse_at) / 1000)
    state, message = _judge(seen.head, age_s, copy, late_after_s, dead_after_s)
    return Judged(
        device_id=seen.device_id,
        state=state,
        message=message,
        pulse_age_s=round(age_s, 3),
        head=seen.head,
    )


def _judge(
    head: Head | None, age_s: float, copy: Copy | None, late_after_s: float, dead_after_s: float
) -> tuple[HeadState, str]:
    if head is None:
        return HeadState.UNREADABLE, "its object is no head of this version: who wrote it?"
    if copy is not None and _contradicts(copy, head):
        return HeadState.TAMPERED, (
            f"the commit that carried seq {head.seq} is not the one that its head names, "
            f"{head.commit_id} with the digest {head.digest[:12]}…: the copy, the replica or the "
            "head was changed; `edge-store verify` the copy, and the box"
        )
    if age_s >= dead_after_s:
        return HeadState.DEAD, f"no sign for {_span(age_s)}"
    if age_s >= late_after_s:
        why = "it has no network, or its replica is behind and stuck"
        return HeadState.LATE, f"no sign for {_span(age_s)}: {why}"
    state, here = _beside(head, copy)
    return state, f"a sign {_span(age_s)} ago{here}"


def _contradicts(copy: Copy, head: Head) -> bool:
    is_comparable = copy.timeline == head.timeline and copy.seq >= head.seq > 0
    return is_comparable and not holds_commit(copy.link, head)


def _beside(head: Head, copy: Copy | None) -> tuple[HeadState, str]:
    """Of one that is alive: whether the copy has all of it."""
    if copy is None:
        return HeadState.ALIVE, ""
    if copy.timeline != head.timeline:
        return HeadState.ALIVE, "; the copy here is of another timeline"
    if copy.seq < head.seq:
        return HeadState.ALIVE, f"; the copy here ends at seq {copy.seq}, it is at {head.seq}"
    return HeadState.IDLE, "; everything that it tells of is here"


def _span(age_s: float) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"


async def read_heads(objects: Objects) -> list[Seen]:
    """Every head there, in order of name: one LIST, and a GET for each.

    Raises:
        ReplicationError: the store does not answer.
    """
    listed = await list_heads(objects)
    places = asyncio.Semaphore(GETS_AT_A_TIME)

    async def one(device_id: DeviceId, pulse_at: int) -> Seen:
        async with places:
            head = await Heads(objects, device_id).read()
        return Seen(device_id=device_id, pulse_at=pulse_at, head=head)

    return list(
        await asyncio.gather(*(one(name, listed[name].written_at) for name in sorted(listed)))
    )


async def list_heads(objects: Objects) -> dict[DeviceId, Entry]:
    """The boxes that have one, unread.

    Raises:
        ReplicationError: the store does not answer.
    """
    return {
        DeviceId(name.removesuffix(SUFFIX)): entry
        for name, entry in (await objects.list(HEADS)).items()
        if name.endswith(SUFFIX) and DEVICE_ID.fullmatch(name.removesuffix(SUFFIX))
    }


def read_copy(path: Path, head: Head) -> Copy:
    """What a copy has, for ``judge_head``.

    Raises:
        StoreError: it cannot be read.
    """
    with closing(open_reader(path)) as connection, translated(f"{path} cannot be read"):
        timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
        link = find_link(connection, head.seq) if head.seq <= seq else None
    return Copy(timeline=timeline, seq=seq, link=link)


def judged_heads(
    seen: list[Seen], now_ms: int, folder: Path | None, dead_after_s: float
) -> list[Judged]:
    """Each head beside the copy of its box in ``folder``, where there is one. A copy that cannot be
    read counts as none.
    """
    found: list[Judged] = []
    for each in seen:
        copy = None
        if folder is not None and each.head is not None:
            path = copy_path(folder, each.device_id)
            try:
                copy = read_copy(path, each.head) if path.exists() else None
            except EdgeStoreError:
                copy = None
        found.append(judge_head(each, now_ms, copy, dead_after_s=dead_after_s))
    return found
