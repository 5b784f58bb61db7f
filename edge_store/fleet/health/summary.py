"""How a fleet is, in numbers: for a person, for JSON, and as Prometheus' text format in a file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_store.alerts.alarms import OF_FLEET, AlarmName
from edge_store.fleet.find import Unlisted
from edge_store.fleet.heads import HeadState
from edge_store.fleet.health.findings import BoxHealth
from edge_store.fleet.health.sweep import Swept
from edge_store.result import Record

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["NAMES", "Counts", "Summary", "Textfile"]

NAMES = tuple(name.value.removeprefix(OF_FLEET) for name in AlarmName if name.is_of_fleet)
NO_HEAD = "no_head"
STORE_AWAY = AlarmName.FLEET_STORE_AWAY.value.removeprefix(OF_FLEET)


class Summary(Record, frozen=True, kw_only=True):
    """``at`` is UTC ms. ``findings`` and ``states`` count boxes; ``results`` are in replicas;
    ``unlisted`` are stores that do not answer: in ``findings`` they are ``store_away``.
    """

    at: int
    boxes: int
    wrong: int
    findings: dict[str, int]
    states: dict[str, int]
    versions: dict[str, int]
    results: int
    missing: int
    heads_read: int
    unlisted: tuple[Unlisted, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all is well, as far as it could be found out: and all of it could."""
        return not self.wrong and not self.unlisted


class Counts:
    """Becomes a summary, box by box."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._boxes = self._wrong = self._results = self._missing = self._read = 0
        self._findings: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()

    def add(self, swept: Swept) -> None:
        """One more."""
        box = swept.box
        self._boxes += 1
        self._wrong += not box.ok
        self._read += swept.was_read
        self._findings.update({each.name for each in box.findings})
        self._states[box.state.value if box.state else NO_HEAD] += 1
        if box.version is not None:
            self._versions[box.version] += 1
        self._results += box.results or 0
        self._missing += box.missing or 0

    def summary(self, unlisted: Sequence[Unlisted] = ()) -> Summary:
        """Of those that were added."""
        if unlisted:
            self._findings[STORE_AWAY] = len(unlisted)
        return Summary(
            at=self._now_ms,
            boxes=self._boxes,
            wrong=self._wrong,
            findings={name: self._findings[name] for name in NAMES if self._findings[name]},
            states=dict(sorted(self._states.items())),
            versions=dict(sorted(self._versions.items())),
            results=self._results,
            missing=self._missing,
            heads_read=self._read,
            unlisted=tuple(unlisted),
        )


class Textfile:
    """What node_exporter's textfile collector reads."""

    def __init__(self) -> None:
        self._pulse = _family("pulse_timestamp_seconds", "When the store was last given its head")
        self._finding = _family("finding", "1 for each thing that is wrong with it", "finding")
        self._behind = _family("results_behind", "Results in its replica and not in the copy here")
        self._missing = _family("missing_requests", "Admitted requests that are in no row")
        self._drilled = _family("drill_timestamp_seconds", "When a restore drill passed last")
        self._free = _family("disk_free_ratio", "Of its disk, as its head tells")
        self._offset = _family("clock_offset_seconds", "How far its clock is ahead of the store's")

    def add(self, box: BoxHealth) -> None:
        """The series of one box; none for what is not known."""
        name = [box.device_id]
        for family, value in (
            (self._pulse, None if box.pulse_at is None else box.pulse_at / 1000),
            (self._behind, box.results_behind),
            (self._missing, box.missing),
            (self._drilled, None if box.drilled_at is None else box.drilled_at / 1000),
            (self._free, box.disk_bytes and (box.disk_free_bytes or 0) / box.disk_bytes),
            (self._offset, box.clock_offset_s),
        ):
            if value is not None:
                family.add_metric(name, value)
        for finding in {each.name for each in box.findings}:
            self._finding.add_metric([*name, finding], 1)

    def write(self, path: Path, summary: Summary) -> None:
        """All at once, by a rename. Raises OSError."""
        from prometheus_client import CollectorRegistry, write_to_textfile  # noqa: PLC0415
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        at = GaugeMetricFamily(
            "edge_store_fleet_looked_timestamp_seconds", "When boxes were last looked at"
        )
        at.add_metric([], summary.at / 1000)
        counted = [at]
        states = [*(state.value for state in HeadState), NO_HEAD]
        for name, text, label, counts, always in (
            ("boxes", "Boxes, by the state of their heads", "state", summary.states, states),
            ("findings", "Boxes with which that is wrong", "finding", summary.findings, NAMES),
            ("versions", "Boxes that run a version", "version", summary.versions, ()),
        ):
            family = GaugeMetricFamily(f"edge_store_fleet_{name}", text, labels=[label])
            for each in dict.fromkeys((*always, *counts)):
                family.add_metric([each], counts.get(each, 0))
            counted.append(family)
        boxes = (self._pulse, self._finding, self._behind, self._missing, self._drilled,
                 self._free, self._offset)  # fmt: skip

        class Families:
            def collect(self) -> "tuple[GaugeMetricFamily, ...]":
                return (*counted, *boxes)

        registry = CollectorRegistry()
        registry.register(Families())
        write_to_textfile(str(path), registry)


def _family(name: str, text: str, *labels: str) -> "GaugeMetricFamily":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    return GaugeMetricFamily(f"edge_store_fleet_box_{name}", text, labels=["device_id", *labels])
