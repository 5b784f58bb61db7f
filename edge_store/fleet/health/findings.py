"""What is wrong with one box, by all that is known of it here. Pure: no clock, no disk, no store.

Times of heads are the store's, those inside copies the box's, "now" is ours.
"""

import re
from collections.abc import Iterator

from edge_store.alerts.alarms import OF_FLEET, AlarmName
from edge_store.chain import Link
from edge_store.clock import utc_text
from edge_store.fleet.heads import Copy, HeadState, Judged, Seen, judge_head
from edge_store.fleet.health.facts import Facts
from edge_store.fleet.met import Met
from edge_store.ids import DeviceId
from edge_store.replica.heads import Head
from edge_store.replica.machine import MachineState
from edge_store.result import Record

__all__ = ["Bounds", "BoxHealth", "Evidence", "Finding", "judge_box"]

HOUR_S, DAY_S = 3600.0, 86_400.0


class Bounds(Record, frozen=True, kw_only=True):
    """From where on something is wrong."""

    late_after_s: float
    dead_after_s: float
    copy_after_s: float = DAY_S
    drill_after_s: float = 8 * DAY_S
    gaps_since_s: float = 7 * DAY_S
    disk_free_min: float = 0.1
    clock_off_max_s: float = 60.0
    version_min: str | None = None


class Evidence(Record, frozen=True, kw_only=True):
    """All that is known of a box. ``head_at``: UTC ms of the last PUT of its head, None if none is
    there. ``facts``: of its copy. ``behind_since``: since when the head is ahead of that (UTC ms).
    ``others``: in words, who else goes by its id. ``is_alone``: the store has no replica of it.
    ``met``: how the newest pull of it has failed.
    """

    device_id: DeviceId
    store: str
    head_at: int | None
    head: Head | None
    facts: Facts | None
    behind_since: int | None = None
    others: tuple[str, ...] = ()
    is_alone: bool = False
    met: Met | None = None


class Finding(Record, frozen=True, kw_only=True):
    """One thing that is wrong. ``name`` is the alarm's without ``fleet_``."""

    name: str
    message: str

    @property
    def alarm(self) -> AlarmName:
        """That of the fleet."""
        return AlarmName[f"{OF_FLEET}{self.name}".upper()]


class BoxHealth(Record, frozen=True, kw_only=True):
    """One box. Times are UTC ms. ``results_behind``: how many more results are in the replica than
    in the copy here; None without a copy of this timeline. ``missing``: admitted requests that are
    in no row, of the boots that were within the bound.
    """

    device_id: DeviceId
    ok: bool
    state: HeadState | None  # None: no head is there
    findings: tuple[Finding, ...]
    store: str
    message: str
    pulse_at: int | None
    pulse_age_s: float | None
    seq: int | None
    results: int | None
    txid: str | None
    timeline: str | None
    version: str | None
    schema_version: int | None
    proven_seq: int | None
    results_behind: int | None
    behind_since: int | None
    missing: int | None
    drilled_at: int | None
    disk_bytes: int | None
    disk_free_bytes: int | None
    clock_offset_s: int | None
    clock_synced: bool | None


def judge_box(evidence: Evidence, bounds: Bounds, now_ms: int) -> BoxHealth:
    """What is wrong with it, the worst first, beside the figures."""
    head, facts = evidence.head, evidence.facts
    judged = _judged(evidence, bounds, now_ms)
    findings = tuple(_findings(evidence, judged, bounds, now_ms))
    machine = head.machine if head is not None else None
    readable = facts if facts is not None and facts.error is None else None
    return BoxHealth(
        device_id=evidence.device_id,
        ok=not findings,
        state=judged.state if judged else None,
        findings=findings,
        store=evidence.store,
        message=judged.message if judged else "it has no head",
        pulse_at=evidence.head_at,
        pulse_age_s=judged.pulse_age_s if judged else None,
        seq=head.seq if head else None,
        results=head.rows if head else None,
        txid=f"{head.txid:016x}" if head else None,
        timeline=head.timeline if head else None,
        version=head.version if head else None,
        schema_version=head.schema_version if head else None,
        proven_seq=head.proven.seq if head and head.proven else None,
        results_behind=_results_behind(head, readable),
        behind_since=evidence.behind_since,
        missing=_missing(readable, bounds, now_ms) if readable else None,
        drilled_at=readable.drilled_at if readable else None,
        disk_bytes=machine.disk_bytes if machine else None,
        disk_free_bytes=machine.disk_free_bytes if machine else None,
        clock_offset_s=_clock_offset_s(evidence, machine),
        clock_synced=_clock_synced(readable, machine),
    )


def _judged(evidence: Evidence, bounds: Bounds, now_ms: int) -> Judged | None:
    if evidence.head_at is None:
        return None
    copy, facts = None, evidence.facts
    if facts is not None and facts.error is None:
        here = facts.here
        link = Link(here.commit_id, here.at, bytes.fromhex(here.digest)) if here else None
        copy = Copy(timeline=facts.timeline, seq=facts.seq, link=link)
    seen = Seen(device_id=evidence.device_id, pulse_at=evidence.head_at, head=evidence.head)
    return judge_head(
        seen,
        now_ms,
        copy,
        late_after_s=bounds.late_after_s,
        dead_after_s=bounds.dead_after_s,
    )


STATES = {
    HeadState.TAMPERED: "tampered",
    HeadState.UNREADABLE: "head_unreadable",
    HeadState.DEAD: "dead",
    HeadState.LATE: "late",
}


def _findings(
    evidence: Evidence, judged: Judged | None, bounds: Bounds, now_ms: int
) -> Iterator[Finding]:
    for other in evidence.others:
        yield Finding(name="duplicate", message=other)
    if judged is None:
        yield Finding(
            name="head_gone", message="its copy is here, and the store has no head of it any more"
        )
    elif judged.state in STATES:
        yield Finding(name=STATES[judged.state], message=judged.message)
    if evidence.is_alone:
        yield Finding(
            name="replica_gone",
            message="its head is in the store, and its replica is not: was it deleted, or moved?",
        )
    elif evidence.met is not None:
        yield _of_pulls(evidence.met)
    if evidence.head is not None:
        yield from _of_head(evidence, evidence.head, bounds)
        yield from _of_copy(evidence, evidence.head, bounds, now_ms)
    facts = evidence.facts
    yield from _of_drills(evidence, judged, bounds, now_ms)
    if facts is not None and facts.error is not None:
        yield Finding(name="copy_unreadable", message=facts.error)
    elif facts is not None and (missing := _missing(facts, bounds, now_ms)):
        yield Finding(
            name="incomplete",
            message=f"{missing} admitted requests are in no row: see `edge-store ledger`",
        )


def _of_pulls(met: Met) -> Finding:
    since, hindrance = f"pulls of it have failed since {_time(met.at)}", met.hindrance
    if hindrance is None:
        return Finding(name="pull_failed", message=f"{since}: {met.error}")
    return Finding(name="pull_hindered", message=f"{since}, as {hindrance}: {met.error}")


def _of_head(evidence: Evidence, head: Head, bounds: Bounds) -> Iterator[Finding]:
    machine = head.machine
    if machine is not None and machine.disk_free_bytes < bounds.disk_free_min * machine.disk_bytes:
        free, all_of_it = machine.disk_free_bytes / 1e9, machine.disk_bytes / 1e9
        yield Finding(name="disk_low", message=f"{free:.1f} of {all_of_it:.1f} GB are free")
    offset_s = _clock_offset_s(evidence, machine)
    if offset_s is not None and abs(offset_s) > bounds.clock_off_max_s:
        way = "ahead of" if offset_s > 0 else "behind"
        yield Finding(
            name="clock_off", message=f"its clock is {abs(offset_s)} s {way} the store's, or more"
        )
    if bounds.version_min is not None and _parts(head.version) < _parts(bounds.version_min):
        yield Finding(
            name="outdated", message=f"it runs {head.version}, older than {bounds.version_min}"
        )


def _of_copy(evidence: Evidence, head: Head, bounds: Bounds, now_ms: int) -> Iterator[Finding]:
    since = evidence.behind_since
    if since is None or now_ms - since <= 1000 * bounds.copy_after_s:
        return
    behind = _results_behind(head, evidence.facts)
    what = f"{behind} results are" if behind else "what the box has is"
    yield Finding(
        name="copy_old", message=f"{what} in its replica and not here, since {_time(since)}"
    )


def _of_drills(
    evidence: Evidence, judged: Judged | None, bounds: Bounds, now_ms: int
) -> Iterator[Finding]:
    """The head knows whether the newest one failed, and what is proven; the copy, when and why."""
    head, facts = evidence.head, evidence.facts
    machine = head.machine if head is not None else None
    failure = facts.drill_failure if facts is not None else None
    if machine.drill_failed if machine is not None else failure is not None:
        here = "the copy here is from before that" if facts else "it has no copy here"
        yield Finding(name="drill_failed", message=failure or f"its head says so; {here}")
    if facts is None or bounds.drill_after_s <= 0 or (judged and judged.state is HeadState.DEAD):
        return
    proven = head.proven.seq if head is not None and head.proven else 0
    if proven > facts.drilled_seq:
        return  # a newer one than the copy knows has passed
    since = facts.drilled_at or facts.began_at
    if since is None or now_ms - since <= 1000 * bounds.drill_after_s:
        return
    what = "no drill has passed since" if facts.drilled_at else "no drill has ever passed, since"
    yield Finding(name="drill_old", message=f"{what} {_time(since)}")


def _results_behind(head: Head | None, facts: Facts | None) -> int | None:
    """By the numbers of the results: those deleted since count, too."""
    if head is None or facts is None or facts.error is not None:
        return None
    return max(0, head.seq - facts.seq) if facts.timeline == head.timeline else None


def _missing(facts: Facts, bounds: Bounds, now_ms: int) -> int:
    since = now_ms - 1000 * bounds.gaps_since_s
    return sum(gap.missing for gap in facts.gaps if gap.at >= since)


def _clock_offset_s(evidence: Evidence, machine: MachineState | None) -> int | None:
    """Ahead of the store's clock at least so far. The store got the head after the commit that it
    names, so one from later than that says as much as the box itself.
    """
    told = machine.clock_offset_s if machine is not None else None
    here = evidence.facts.here if evidence.facts is not None else None
    if here is not None and evidence.head_at is not None:
        ahead_s = (here.at - evidence.head_at) // 1000
        if ahead_s > 0:
            return max(ahead_s, told or 0)
    return told


def _clock_synced(facts: Facts | None, machine: MachineState | None) -> bool | None:
    if machine is not None:
        return machine.clock_synced
    return facts.clock_synced if facts is not None else None


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version))


def _time(at_ms: int) -> str:
    return utc_text(at_ms, "%Y-%m-%d %H:%M UTC")
