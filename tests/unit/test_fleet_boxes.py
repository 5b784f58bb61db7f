"""Boxes are listed, shown and labelled from what lies in the folder; a person's file stays."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.replicating import Database

from edge_store.cli.fleet import fleet
from edge_store.errors import ConfigError, NotFound
from edge_store.fleet.copies import Standing, copy_path, keep_standing
from edge_store.fleet.labels import label_boxes
from edge_store.fleet.registry import load_registry
from edge_store.ids import DeviceId
from edge_store.replica.points import Txid

WRITTEN = """# ours
[[stores]]
name = "usb"   # the drawer
url = "usb"

[labels]
# north
box-1 = { site = "berlin" }  # by the door

[queries]
all = "select 1"
"""
BOX = DeviceId("box-1")


def fleet_of(folder: Path) -> Path:
    """One box with a copy, an older one beside, and what a pull knows of it."""
    database = Database(copy_path(folder, BOX), BOX)
    database.write(3)
    database.connection.execute("PRAGMA journal_mode = DELETE")
    database.close()
    (folder / "box-1.2026-01-01T000000Z.db").write_bytes(b"older")
    (folder / "fleet.toml").write_text(WRITTEN)
    standing = Standing(
        location=f"file://{folder}/usb", txid=Txid(255), witnesses=(), results=3,
        newest_at=1_800_000_000_000, head=None, head_version=None,
        restored_at=1_800_000_001_000, renewed_at=1_800_000_002_000,
    )  # fmt: skip
    keep_standing(copy_path(folder, BOX), standing)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(fleet, arguments)


def test_boxes_are_listed_with_their_copies_and_labels(tmp_path: Path) -> None:
    fleet_of(tmp_path)
    label_boxes(tmp_path, [DeviceId("box-2")], {"site": "paris"})
    lines = [json.loads(line) for line in run("ls", "--in", str(tmp_path)).output.splitlines()]
    assert [(line["device_id"], line["store"], line["results"]) for line in lines] == [
        ("box-1", "usb", 3),
        ("box-2", None, None),
    ]
    assert (lines[0]["older"], lines[0]["restored_at"]) == (1, "2027-01-15T08:00:01Z")
    assert lines[1]["labels"] == {"site": "paris"}
    assert "box-2,site=paris," in run("ls", "--in", str(tmp_path), "--csv").output
    only = run("ls", "--in", str(tmp_path), "--group", "site=paris").output
    assert json.loads(only)["device_id"] == "box-2"


def test_box_is_shown_with_what_its_copy_says(tmp_path: Path) -> None:
    fleet_of(tmp_path)
    shown = json.loads(run("show", BOX, "--in", str(tmp_path), "--json").output)
    assert (shown["labels"], shown["seq"], shown["txid"][-2:]) == ({"site": "berlin"}, 3, "ff")
    assert [Path(older["path"]).name for older in shown["older"]] == ["box-1.2026-01-01T000000Z.db"]
    text = run("show", BOX, "--in", str(tmp_path)).output
    assert "site=berlin" in text
    unknown = run("show", "box-9", "--in", str(tmp_path))
    assert isinstance(unknown.exception, NotFound)


def test_labels_are_written_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(WRITTEN)
    done = run("label", "box-1", "box-2", 'rack=1 "left" \\', "site=", "--in", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert 'box-2: rack=1 "left" \\  (no copy of it is here yet)' in done.output
    assert (tmp_path / "fleet.toml").read_text() == WRITTEN.replace(
        'box-1 = { site = "berlin" }  # by the door\n',
        'box-1 = {rack = "1 \\"left\\" \\\\"}\nbox-2 = {rack = "1 \\"left\\" \\\\"}\n',
    )
    assert load_registry(tmp_path).labels[DeviceId("box-2")] == {"rack": '1 "left" \\'}
    assert run("label", "box-1", "box-2", "rack=", "--in", str(tmp_path)).exit_code == 0
    assert load_registry(tmp_path).labels == {}


def test_first_label_makes_the_file(tmp_path: Path) -> None:
    label_boxes(tmp_path, [BOX], {"site": "berlin"})
    assert (tmp_path / "fleet.toml").read_text() == '[labels]\nbox-1 = {site = "berlin"}\n'


@pytest.mark.parametrize(
    "text",
    [
        'labels.box-1.site = "paris"\n',
        '[labels.box-1]\nsite = "paris"\n',
        "labels = {box-1 = {}}\n",
        '[queries]\na = """\n[labels]\nselect 1\n[x]"""\n',
    ],
)
def test_labels_in_another_form_are_left_to_a_person(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(ConfigError, match="was left as it is"):
        label_boxes(tmp_path, [BOX], {"site": "berlin"})
    assert (tmp_path / "fleet.toml").read_text() == text


def test_label_that_the_registry_would_refuse_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="empty or no text"):
        label_boxes(tmp_path, [BOX], {"site": "a\nb"})
    with pytest.raises(ConfigError, match="is no device id"):
        label_boxes(tmp_path, [DeviceId("Box 1")], {"site": "berlin"})
    assert not (tmp_path / "fleet.toml").exists()


@pytest.mark.parametrize("command", [["pull", "--into", "copies"], ["heads"], ["health"]])
def test_folder_that_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*command, "--from", str(tmp_path / "disk" / "replicas"))
    assert done.exit_code == 1
    assert "there is no such folder" in f"{done.output} {done.exception}"
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize("word", ["../x", "*", "box-[1]", "Box", ""])
def test_word_that_is_no_device_id_reaches_no_file(tmp_path: Path, word: str) -> None:
    folder = fleet_of(tmp_path)
    for command in (["show", word], ["label", word, "site=berlin"]):
        done = run(*command, "--in", str(folder))
        assert (done.exit_code, "is no device id" in done.output) == (2, True), done.output
    assert (folder / "fleet.toml").read_text() == WRITTEN


def test_heads_are_those_of_the_stores_in_fleet_toml_but_what_they_exclude(tmp_path: Path) -> None:
    for store, names in (("berlin", ("box-a", "test-1")), ("paris", ("box-b",))):
        (tmp_path / store / "heads").mkdir(parents=True)
        for name in names:
            (tmp_path / store / "heads" / f"{name}.json").write_text("no head")
    stores = "".join(
        f'[[stores]]\nname = "{name}"\nurl = "{name}"\nexclude = ["test-*"]\n'
        for name in ("berlin", "paris")
    )
    (tmp_path / "fleet.toml").write_text(stores)
    done = run("heads", "--in", str(tmp_path), "--nl")
    shown = [json.loads(line) for line in done.output.splitlines()]
    assert [(each["device_id"], each["state"]) for each in shown] == [
        ("box-a", "unreadable"),
        ("box-b", "unreadable"),
    ]
    assert done.exit_code == 1
    nowhere = run("heads")
    assert (nowhere.exit_code, "give --from" in nowhere.output) == (2, True)
