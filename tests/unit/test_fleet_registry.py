"""``fleet.toml`` says what it says, or is refused with the place and the nearest name."""

from pathlib import Path

import pytest

from edge_store.errors import ConfigError
from edge_store.fleet.query import query_fleet
from edge_store.fleet.registry import Registry, load_registry, parse_registry
from edge_store.ids import DeviceId
from edge_store.replica.explain import explained
from edge_store.replica.location import read_credentials

WHOLE = """
lake = "lake"

[[stores]]
name = "berlin"
url = "s3://edge/fleet?endpoint=http://127.0.0.1:9"
credentials = "site-a"
include = ["box-*", "kiosk"]
exclude = ["box-test-?"]

[[stores]]
name = "usb"
url = "replicas"

[labels]
box-1 = {site = "berlin", rack = "2"}
7up = {site = "paris"}

[queries]
slow = "select id from results where total_ms > 5000"
"""
BOX = DeviceId("box-1")


def written(folder: Path, text: str) -> Registry:
    (folder / "fleet.toml").write_text(text)
    return load_registry(folder)


def test_folder_without_the_file_has_an_empty_registry(tmp_path: Path) -> None:
    assert load_registry(tmp_path) == Registry()


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    registry = written(tmp_path, WHOLE)
    assert registry.lake == str(tmp_path / "lake")
    assert registry.stores[1].location().path == str(tmp_path / "replicas")
    assert written(tmp_path, 'lake = "s3://edge/lake"').lake == "s3://edge/lake"


@pytest.mark.parametrize(
    ("device_id", "is_taken"),
    [("box-1", True), ("kiosk", True), ("kiosk-2", False), ("box-test-1", False)],
)
def test_store_takes_what_is_included_and_not_excluded(
    tmp_path: Path, device_id: str, *, is_taken: bool
) -> None:
    berlin, usb = written(tmp_path, WHOLE).stores
    assert berlin.takes(DeviceId(device_id)) == is_taken
    assert usb.takes(DeviceId(device_id))


def test_group_is_the_boxes_that_have_all_its_labels(tmp_path: Path) -> None:
    registry = written(tmp_path, WHOLE)
    assert registry.is_labelled(BOX, {"site": "berlin", "rack": "2"})
    assert not registry.is_labelled(BOX, {"site": "berlin", "rack": "3"})
    assert not registry.is_labelled(DeviceId("unknown"), {"site": "berlin"})
    assert registry.is_labelled(DeviceId("unknown"), {})


def test_keys_of_a_store_are_those_that_it_names(tmp_path: Path) -> None:
    location = written(tmp_path, WHOLE).stores[0].location()
    environ = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other"}
    with pytest.raises(ConfigError, match="SITE_A_AWS_ACCESS_KEY_ID is not set"):
        read_credentials(location, environ)
    (tmp_path / "site-a-aws-secret-access-key").write_text("secret")
    environ |= {"SITE_A_AWS_ACCESS_KEY_ID": "own", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    found = read_credentials(location, environ)
    assert found is not None
    assert (found.access_key_id, found.secret_access_key) == ("own", "secret")


def test_refused_keys_are_called_by_the_names_that_they_have(tmp_path: Path) -> None:
    location = written(tmp_path, WHOLE).stores[0].location()
    refused = explained(PermissionError("no"), location)
    assert "check SITE_A_AWS_ACCESS_KEY_ID and SITE_A_AWS_SECRET_ACCESS_KEY" in refused.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stored = []", "stored: there is no such key; did you mean stores?"),
        (
            '[[stores]]\nname = "a"\nurl = "b"\nexcludes = []',
            "stores[0].excludes: there is no such key; did you mean exclude?",
        ),
        ('[[stores]]\nname = "a"', "stores[0]: Object missing required field `url`"),
        ('[[stores]]\nname = "a"\nurl = "ftp://b"', "the url of store a"),
        ('[[stores]]\nname = "A b"\nurl = "b"', "stores[0].name"),
        ('stores = [{name = "a", url = "b"}, {name = "a", url = "c"}]', "two stores are called"),
        ("[labels]\nBox_1 = {}", "'Box_1' is no device id"),
        ('[labels]\nbox-1 = {Site = "x"}', "labels.box-1: 'Site' is no name"),
        ('[labels]\nbox-1 = {site = ""}', "labels.box-1.site = ''"),
        ("[labels]\nbox-1 = {rack = 2}", "labels.box-1.rack: Expected `str`, got `int`"),
        ('[labels]\nbox-0 = {}\nbox-1 = "x"', "labels.box-1: Expected `object`, got `str`"),
        ('[queries]\na = "x"\nslow = 2', "queries.slow: Expected `str`, got `int`"),
        ("labels = 2", "labels: Expected `object`, got `int`"),
        ('[queries]\n"a b" = "select 1"', "queries: 'a b' is no name"),
        ("lake = ", "is not TOML"),
    ],
)
def test_mistake_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "fleet.toml") in str(caught.value) or "store a" in str(caught.value)


def test_secret_in_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        written(tmp_path, '[[stores]]\nname = "a"\nurl = "s3://edge/x?secret_access_key=s"')


def test_sample_in_the_docs_is_right_and_its_queries_can_be_asked() -> None:
    page = Path(__file__).parents[2] / "docs" / "fleet.md"
    sample = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    registry = parse_registry(sample, page)
    assert registry.queries
    for statement in registry.queries.values():
        query_fleet([], statement, rows_max=1, timeout_s=60)
