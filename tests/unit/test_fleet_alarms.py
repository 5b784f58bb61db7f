"""Who is told of a fleet, and what a centre refuses to do twice at once."""

from pathlib import Path

import pytest
from support.fleet_health import Centre

from edge_store.errors import AlreadyRunning, ConfigError
from edge_store.fleet.find import Unlisted
from edge_store.fleet.health.alarms import FleetAlarms, urls_of
from edge_store.fleet.health.known import remembering
from edge_store.fleet.registry import Registry, load_registry


def test_alarms_for_nobody_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_STORE_ALERT_URLS", raising=False)
    with pytest.raises(ConfigError, match="nobody to tell"):
        urls_of(Registry().alerts.section)
    (tmp_path / "fleet.toml").write_text(
        '[alerts]\nurls_file = "urls"\nquiet_hours = "22:00-07:00"\nremind_s = 7\n'
    )
    (tmp_path / "urls").write_text("json://one\njson://two\n")
    section = load_registry(tmp_path).alerts.section
    assert urls_of(section) == ("json://one", "json://two"), "beside fleet.toml"
    assert (section.quiet_hours, section.remind_s, section.after_s) == ("22:00-07:00", 7, 0)


@pytest.mark.parametrize("line", ['quiet_hours = "night"', "after_s = 3", 'timezone = "Mars"'])
def test_alerts_that_cannot_be_are_refused_with_their_place(tmp_path: Path, line: str) -> None:
    (tmp_path / "fleet.toml").write_text(f"[alerts]\n{line}\n")
    with pytest.raises(ConfigError, match=r"fleet\.toml: alerts"):
        load_registry(tmp_path)


async def test_a_second_look_at_the_same_time_is_refused(tmp_path: Path) -> None:
    centre = Centre(tmp_path)
    with remembering(centre.folder), pytest.raises(AlreadyRunning):
        await centre.look()
    assert await centre.look() == []


async def test_boxes_that_people_know_of_are_not_new(tmp_path: Path) -> None:
    centre = Centre(tmp_path)
    for name in ("box-1", "box-2"):
        await centre.put_head(name, seq=1)

    async def new(*, is_telling: bool) -> list[bool]:
        swept = await centre.look(later_s=3600, is_telling=is_telling)
        return [each.new == {"late"} for each in swept]

    assert await new(is_telling=False) == [True, True]
    assert await new(is_telling=True) == [True, True], "nobody was told"
    await centre.put_head("box-3", seq=1)
    assert await new(is_telling=True) == [False, False, True]


async def test_a_message_names_a_few_boxes_and_counts_the_others(tmp_path: Path) -> None:
    centre = Centre(tmp_path)
    for known in (True, False):
        for number in range(5):
            await centre.put_head(f"{'known' if known else 'new'}-{number}", seq=1)
        alarms = FleetAlarms()
        for swept in await centre.look(later_s=3600, is_telling=known):
            alarms.add(swept)
    (text,) = alarms.texts.values()
    assert text.count("no sign for") == text.count("new-") == 4
    assert "and 6 more" in text
    alarms.add_away([Unlisted(store="one", error="no route", code="", hint="")])
    assert "one: no route" in alarms.texts.values()
