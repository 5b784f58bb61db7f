"""What is raised stays raised until it is resolved, and is said once."""

import re
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from edge_store.alerts import Alarm, AlarmName, Alarms
from edge_store.observability.metrics import Metrics

OPERATIONS = Path(__file__).resolve().parent.parent.parent / "docs/operations.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def gauge(metrics: Metrics, name: AlarmName, when: str = "") -> float | None:
    name_ = f"edge_store_alarm{when}_seconds" if when else "edge_store_alarm"
    return metrics.registry.get_sample_value(name_, {"name": name.value})


def test_alarm_raised_often_is_told_once_and_kept_up_to_date(metrics: Metrics) -> None:
    times = iter((1000, 5000, 6000, 6000))
    alarms = Alarms(metrics, lambda: next(times))
    changes: list[int] = []
    alarms.changed = lambda: changes.append(len(alarms.active))
    with capture_logs() as logs:
        alarms.raise_(AlarmName.DISK_LOW, "2 GB free", level=1)
        alarms.raise_(AlarmName.DISK_LOW, "1 GB free", level=2)
        (alarm,) = alarms.active
        shown = [gauge(metrics, AlarmName.DISK_LOW, when) for when in ("_since", "_seen")]
        alarms.resolve(AlarmName.DISK_LOW)
        alarms.resolve(AlarmName.DISK_LOW)
    assert (alarm.message, alarm.fields) == ("1 GB free", {"level": 2})
    assert (alarm.since, alarm.seen) == (1000, 5000)
    assert shown == [1, 5]
    assert gauge(metrics, AlarmName.DISK_LOW, "_seen") == 0
    assert [(line["event"], line["alarm"]) for line in logs] == [
        ("alarm_raised", "disk_low"),
        ("alarm_resolved", "disk_low"),
    ]
    assert changes == [1, 0]


def test_whatever_a_room_passes_can_be_told(metrics: Metrics) -> None:
    alarms = Alarms(metrics)
    alarms.raise_(AlarmName.DISK_LOW, "odd \udc80", path=Path("/x"), event="e", alarm=None, n=1.5)
    (alarm,) = alarms.active
    assert msgspec.json.decode(msgspec.json.encode(alarm), type=Alarm) == alarm
    assert alarm.message == "odd \\udc80"
    assert alarm.fields == {"path": "/x", "event": "e", "alarm": None, "n": 1.5}


def test_gauge_of_every_alarm_of_a_box_is_there_from_the_start(metrics: Metrics) -> None:
    alarms = Alarms(metrics)
    assert {gauge(metrics, name) for name in AlarmName if not name.is_of_fleet} == {0.0}
    assert {gauge(metrics, name) for name in AlarmName if name.is_of_fleet} == {None}
    alarms.raise_(AlarmName.ENGINE_DOWN, "it has died")
    assert gauge(metrics, AlarmName.ENGINE_DOWN) == 1
    assert gauge(metrics, AlarmName.DISK_LOW) == 0
    alarms.resolve(AlarmName.ENGINE_DOWN)
    assert gauge(metrics, AlarmName.ENGINE_DOWN) == 0


def test_active_alarms_fit_what_readyz_may_answer(metrics: Metrics) -> None:
    alarms = Alarms(metrics)
    for name in AlarmName:
        alarms.raise_(name, 10_000 * "x")
    assert len(msgspec.json.encode(alarms.active)) < 32 * 1024


def test_every_alarm_is_documented_and_no_other_is() -> None:
    page = OPERATIONS.read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Alarms\n(.*?)(?=^What to do)", page, re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, re.MULTILINE)
    urgent = {True: " (urgent)", False: ""}
    assert documented == [
        (name.value, name.meaning + urgent[name.is_urgent])
        for name in AlarmName
        if not name.is_of_fleet
    ]
