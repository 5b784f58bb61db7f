"""``edge-store repair`` as its user meets it: on a stopped box, and beside its daemon."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box

from edge_store.sqlite import driver

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
ASKED = {
    "model": "demo",
    "messages": [{"role": "user", "content": "[demo:broken-json] is it well?"}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "well", "schema": SCHEMA}},
}
WHOLE = {**ASKED, "messages": [{"role": "user", "content": "is it well?"}]}
NEWEST = "SELECT json_state, schema_valid, output_json, repairer FROM structured ORDER BY seq"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def repair(box: Box, *arguments: str) -> Any:
    done = box.run("repair", *arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return (
        [json.loads(line) for line in done.stdout.splitlines()]
        if "report" in arguments
        else (json.loads(done.stdout))
    )


def given_up_by_an_older_repairer(box: Box) -> None:
    """As a version that knew less would have left them."""
    connection = driver.connect(box.database)
    with connection:
        connection.execute(
            "INSERT INTO repairs (at, id, choice_index, json_state, repair_log, repairer) "
            "SELECT 1, id, choice_index, 'invalid', 'repair rejected', 'json-repair 0.1' "
            "FROM structured WHERE json_state = 'repaired'"
        )
    connection.close()


@pytest.mark.parametrize("served", [True, False])
def test_a_newer_repairer_is_applied_to_old_rows_which_stay(box: Box, *, served: bool) -> None:
    with box.serve() as daemon:
        for body in (ASKED, WHOLE, ASKED):
            assert daemon.post("/v1/chat/completions", json=body).status_code == 200
        assert daemon.stop() == 0
    given_up_by_an_older_repairer(box)
    rows = box.rows("SELECT * FROM outputs ORDER BY seq")
    before = box.rows(NEWEST)
    assert [row[0] for row in before] == ["invalid", "valid", "invalid"]
    step = {"invalid to repaired": 2}
    dry = repair(box, "reapply", "--dry-run")
    assert dry == {"choices": 2, "written": 0, "became": step, "dry_run": True}
    assert box.rows(NEWEST) == before

    if served:
        with box.serve() as daemon:
            done = repair(box, "reapply")
            assert daemon.stop() == 0
    else:
        done = repair(box, "reapply")
    assert done == {"choices": 2, "written": 2, "became": step, "dry_run": False}
    after = box.rows(NEWEST)
    assert [(row[0], row[1]) for row in after] == [("repaired", 1), ("valid", 1), ("repaired", 1)]
    assert after[1] == before[1]
    assert set(json.loads(after[0][2])) == {"ok"}
    assert box.rows("SELECT * FROM outputs ORDER BY seq") == rows
    shown = box.rows("SELECT json_state, output_json, schema_valid FROM generations ORDER BY seq")
    assert shown == [(state, text, valid) for state, valid, text, _ in after]
    assert repair(box, "reapply")["choices"] == 0  # by this repairer now
    assert repair(box, "reapply", "--since", "2001-01-01")["choices"] == 0


def test_since_leaves_older_results_out(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.post("/v1/chat/completions", json=ASKED).status_code == 200
        assert daemon.stop() == 0
    given_up_by_an_older_repairer(box)
    assert repair(box, "reapply", "--dry-run", "--since", "2999-01-01")["choices"] == 0
    assert repair(box, "reapply", "--dry-run", "--since", "2001-01-01T00:00:00Z")["choices"] == 1


def test_the_report_counts_states_and_names_errors(box: Box) -> None:
    regex = {**WHOLE, "response_format": {"type": "text"}, "regex": "[ab]{3}"}
    with box.serve() as daemon:
        for body in (ASKED, WHOLE, regex):
            assert daemon.post("/v1/chat/completions", json=body).status_code == 200
        (line,) = repair(box, "report")
        assert (line["choices"], line["valid"], line["repaired"]) == (3, 1, 1)
        assert (line["model"], line["constraint_broken"]) == ("demo", 0)
        assert repair(box, "report", "--errors") == []
        assert daemon.stop() == 0
    given_up_by_an_older_repairer(box)
    (error,) = repair(box, "report", "--errors")
    assert (error["kind"], error["error"], error["choices"]) == ("invalid", "repair rejected", 1)


def test_what_was_asked_of_a_response_is_known_again(box: Box) -> None:
    asked = {
        "model": "demo",
        "input": "[demo:broken-json] is it well?",
        "text": {"format": {"type": "json_schema", "name": "well", "schema": SCHEMA}},
    }
    with box.serve() as daemon:
        assert daemon.post("/v1/responses", json=asked).status_code == 200
        assert daemon.stop() == 0
    (before,) = box.rows(NEWEST)
    given_up_by_an_older_repairer(box)
    assert repair(box, "reapply")["became"] == {"invalid to repaired": 1}
    assert box.rows(NEWEST) == [before]
    assert before[:2] == ("repaired", 1)


def test_what_is_logged_of_a_dry_run_leaves_its_json_alone(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.post("/v1/chat/completions", json=ASKED).status_code == 200
        assert daemon.stop() == 0
    given_up_by_an_older_repairer(box)
    box.environ["EDGE_STORE_REPAIR__DEADLINE_S"] = "0.0001"  # no worker is as fast
    done = box.run("repair", "reapply", "--dry-run", "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    assert "json_not_assessed" in done.stderr
    assert json.loads(done.stdout)["dry_run"]
