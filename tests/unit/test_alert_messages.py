"""When a person is told, on a clock of the test's own."""

from itertools import pairwise
from pathlib import Path

import pytest

from edge_store.alerts import AlarmName, Alarms
from edge_store.alerts.messages import due, recalled, wording
from edge_store.alerts.quiet import QuietHours
from edge_store.alerts.spool import Spool
from edge_store.config import AlertsSection
from edge_store.observability.metrics import Metrics

QUIET_ALARM, URGENT_ALARM = AlarmName.QUEUE_OLD, AlarmName.ENGINE_DOWN
HOUR = 3600


class Told:
    """Alarms and what is told of them, by a clock that is moved by hand."""

    def __init__(self, tmp_path: Path, config: AlertsSection) -> None:
        self.now_s = 1_800_000_000
        self.config = config
        self.alarms = Alarms(Metrics(), lambda: 1000 * self.now_s)
        self.spool = Spool(tmp_path / "alerts.jsonl", ["a"])
        self.titles: list[str] = []

    def after(self, seconds: int) -> list[str]:
        """What is told once so much time has passed, looking often."""
        told = []
        ends = self.now_s + seconds
        while True:
            found = due(
                self.alarms.active,
                self.alarms.ended,
                self.spool.told,
                self.config,
                1000 * self.now_s,
            )
            for each in found:
                self.spool.add(each, "box")
                told.append(f"{each.alarm.name.value}: {each.kind.value}")
            if self.now_s >= ends:
                return told
            self.now_s = min(self.now_s + 5, ends)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path, AlertsSection(after_s=60, rate_s=600, remind_s=24 * HOUR))


def test_alarm_that_holds_is_told_once_then_reminded_of_then_over(told: Told) -> None:
    told.alarms.raise_(QUIET_ALARM, "old")
    assert told.after(55) == []
    assert told.after(10) == ["queue_old: raised"]
    told.alarms.raise_(QUIET_ALARM, "older")
    assert told.after(23 * HOUR) == []
    assert told.after(2 * HOUR) == ["queue_old: reminder"]
    told.alarms.resolve(QUIET_ALARM)
    assert told.after(55) == []
    assert told.after(10) == ["queue_old: resolved"]
    assert told.after(48 * HOUR) == []


def test_an_alarm_of_which_there_is_more_to_tell_is_told_again_at_once(told: Told) -> None:
    told.alarms.raise_(URGENT_ALARM, "one")
    assert told.after(10) == ["engine_down: raised"]
    known, now = told.spool.told, 1000 * told.now_s
    for again, kinds in (((URGENT_ALARM,), ["reminder"]), ((QUIET_ALARM,), []), ((), [])):
        found = due(told.alarms.active, told.alarms.ended, known, told.config, now, again)
        assert [each.kind.value for each in found] == kinds


def test_alarm_that_flaps_is_not_told(told: Told) -> None:
    for _ in range(20):
        told.alarms.raise_(QUIET_ALARM, "old")
        assert told.after(30) == []
        told.alarms.resolve(QUIET_ALARM)
        assert told.after(30) == []


def test_alarm_that_comes_back_soon_is_not_over_and_not_new(told: Told) -> None:
    told.alarms.raise_(URGENT_ALARM, "dead")
    assert told.after(0) == ["engine_down: raised"]
    for _ in range(20):
        told.alarms.resolve(URGENT_ALARM)
        assert told.after(30) == []
        told.alarms.raise_(URGENT_ALARM, "dead")
        assert told.after(30) == []


def test_alarm_that_comes_back_later_is_told_at_the_rate(told: Told) -> None:
    moments = []
    for _ in range(40):
        told.alarms.raise_(URGENT_ALARM, "dead")
        moments += [told.now_s for each in told.after(70) if each.endswith("raised")]
        told.alarms.resolve(URGENT_ALARM)
        told.after(70)
    assert len(moments) > 3
    assert all(later - earlier >= 600 for earlier, later in pairwise(moments))


def test_reminders_can_be_off(tmp_path: Path) -> None:
    told = Told(tmp_path, AlertsSection(remind_s=0, after_s=0))
    told.alarms.raise_(QUIET_ALARM, "old")
    assert told.after(240 * HOUR) == ["queue_old: raised"]


def test_clock_that_was_set_back_holds_nothing_up(told: Told) -> None:
    told.alarms.raise_(QUIET_ALARM, "old")
    told.now_s -= 1000 * HOUR
    assert told.after(0) == ["queue_old: raised"]


def test_message_says_what_when_and_that_it_is_late(told: Told) -> None:
    told.alarms.raise_(URGENT_ALARM, "It has died.", code="engine_crashed")
    told.after(0)
    (message,) = told.spool.pending("a")
    title, text = wording(message, message.at + 3_600_000)
    assert title == "[box] engine_down: raised"
    assert text.splitlines() == [
        "The engine does not answer, or has died.",
        "It has died.",
        "Raised at 2027-01-15T08:00:00.000Z.",
        "code = engine_crashed",
        "Sent at 2027-01-15T09:00:00.000Z: there was no way before, or it was quiet.",
    ]
    assert "Sent at" not in wording(message, message.at)[1]


def test_message_says_when_what_it_says_was_seen_last_also_after_a_restart(told: Told) -> None:
    told.alarms.raise_(QUIET_ALARM, "1 h")
    told.after(50)
    told.alarms.raise_(QUIET_ALARM, "2 h")
    told.after(10)
    (message,) = told.spool.pending("a")
    _, text = wording(message, message.at)
    assert "2 h\nRaised at 2027-01-15T08:00:00.000Z, last seen at 2027-01-15T08:00:50.000Z." in text
    (alarm,) = told.alarms.active
    assert recalled(message) == alarm
    told.now_s += 100
    told.alarms.raise_(QUIET_ALARM, "3 h")
    assert told.after(24 * HOUR) == ["queue_old: reminder"]
    _, text = wording(told.spool.pending("a")[-1], message.at)
    assert (
        "3 h\nRaised at 2027-01-15T08:00:00.000Z, last seen at 2027-01-15T08:02:40.000Z, and"
        in text
    )


@pytest.mark.parametrize(
    ("span", "zone", "quiet", "loud"),
    [
        ("22:00-07:00", "UTC", (22 * 60, 23 * 60, 0, 6 * 60 + 59), (7 * 60, 12 * 60, 21 * 60 + 59)),
        ("12:00-13:30", "UTC", (12 * 60, 13 * 60 + 29), (11 * 60 + 59, 13 * 60 + 30, 0)),
        ("22:00-07:00", "Asia/Shanghai", (14 * 60, 22 * 60 + 59), (13 * 60 + 59, 23 * 60)),
        ("", "UTC", (), (0, 12 * 60)),
    ],
)
def test_quiet_hours_are_of_the_zone(
    span: str, zone: str, quiet: tuple[int, ...], loud: tuple[int, ...]
) -> None:
    hours = QuietHours(AlertsSection(quiet_hours=span, timezone=zone))
    midnight = 1_799_971_200_000  # 2027-01-15T00:00Z
    assert [hours.holds(midnight + 60_000 * each) for each in quiet] == [True] * len(quiet)
    assert [hours.holds(midnight + 60_000 * each) for each in loud] == [False] * len(loud)
