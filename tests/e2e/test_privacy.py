"""What a daemon writes where there are rules of redaction, and what it writes as it is asked to."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Box, DaemonProcess

SECRET = "ada@example.org"
CHAT = "/v1/chat/completions"
ASKED = {
    "model": "demo",
    "messages": [{"role": "user", "content": f"write to {SECRET} about TICKET-9"}],
    "user": "ada",
}
RULES = """
[privacy]
detectors = ["email"]

[privacy.rules]
ticket = 'TICKET-\\d+'
"""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def with_rules(box: Box) -> Box:
    settings = box.directory / "edge-store.toml"
    kept = settings.read_text().partition("[privacy]")
    after = kept[2].partition("\n[privacy.rules]")[2].partition("\n[")
    settings.write_text(kept[0] + RULES + "[" + after[2])
    return box


def everywhere(box: Box) -> bytes:
    return b"".join(p.read_bytes() for p in box.directory.glob("results.db*"))


def test_what_the_rules_find_is_in_no_file_of_the_box(box: Box) -> None:
    with with_rules(box).serve() as daemon:
        for stream in (False, True):
            answer = daemon.post(CHAT, json={**ASKED, "stream": stream})
            assert answer.status_code == 200
        assert daemon.stop() == 0
    assert SECRET.encode() not in everywhere(box)
    assert b"TICKET-9" not in everywhere(box)
    for text, privacy in box.rows(
        "SELECT input_text, privacy FROM results JOIN requests USING (seq)"
    ):
        assert text == "write to [REDACTED:email] about [REDACTED:ticket]"
        assert set(json.loads(privacy)["redacted"]) == {"email", "ticket"}
    assert box.proven().faults == ()


def test_a_rule_that_is_none_is_refused_at_the_start(box: Box) -> None:
    settings = box.directory / "edge-store.toml"
    settings.write_text(settings.read_text().replace("[privacy.rules]", "[privacy.rules]\nx = '('"))
    done = box.run("config", "show", "--config", str(box.directory))
    assert done.returncode == 78
    assert "privacy.rules.x is no regular expression" in done.stderr


def test_a_key_bounds_what_is_recorded(box: Box) -> None:
    with box.serve() as daemon:
        made = box.run(
            "keys",
            "create",
            "quiet",
            "--tenant",
            "ward",
            "--record",
            "meta",
            "--config",
            str(box.directory),
        )
        assert made.returncode == 0, made.stderr
        key = next(word for word in made.stdout.split() if word.startswith("es-"))
        headers = {"authorization": f"Bearer {key}"}
        assert daemon.post(CHAT, json=ASKED, headers=headers).status_code == 200
        full = {**headers, "x-edge-store-record": "full"}
        refused = daemon.post(CHAT, json=ASKED, headers=full)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        off = {**headers, "x-edge-store-record": "off"}
        assert daemon.post(CHAT, json=ASKED, headers=off).status_code == 200
        batch = daemon.post(
            "/v1/batches",
            json={"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h"},
            headers=headers,
        )
        assert batch.status_code == 403
        assert daemon.stop() == 0
    assert SECRET.encode() not in everywhere(box)
    rows = box.rows("SELECT privacy, user_id, output_tokens > 0 FROM results ORDER BY seq")
    assert rows == [('{"record":"meta"}', "ada", 1), ('{"record":"off"}', None, 1)]
    assert box.proven().faults == ()


def chat(daemon: DaemonProcess, text: str, user: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}], "user": user}
    assert daemon.post(CHAT, json=body).status_code == 200


def forget(box: Box, *arguments: str) -> Any:
    done = box.run("forget", *arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("served", [True, False])
def test_a_user_is_forgotten_and_the_sums_and_the_chain_stay_whole(
    box: Box, *, served: bool
) -> None:
    with box.serve() as daemon:
        for n in range(3):
            chat(daemon, f"the sphinx of quartz {n}", "u-17")
            chat(daemon, f"the quick fox {n}", "u-18")
        assert forget(box, "--user", "u-17", "--dry-run") == {
            "chosen": 3, "deleted": 0, "dry_run": True,
        }  # fmt: skip
        if served:
            done = forget(box, "--user", "u-17")
        assert daemon.stop() == 0
    if not served:
        done = forget(box, "--user", "u-17")
    assert (done["chosen"], done["deleted"]) == (3, 3)
    assert set(done["remains"]) == {"wal", "copies"}
    assert b"sphinx of quartz" not in everywhere(box)  # the last to close it has checkpointed
    assert b"quick fox" in everywhere(box)
    assert box.rows("SELECT user_id FROM results ORDER BY seq") == 3 * [("u-18",)]
    assert box.rows("SELECT DISTINCT what, reason, count(*) FROM deletions") == [
        ("result", "forget", 3)
    ]
    (sums,) = box.rows("SELECT admitted, completed, deleted_forget, percent FROM completeness")
    assert sums == (6, 3, 3, 100.0)
    assert box.proven().faults == ()
    assert forget(box, "--user", "u-17")["chosen"] == 0


def test_what_an_expression_chooses_is_forgotten_and_it_cannot_write(box: Box) -> None:
    with box.serve() as daemon:
        chat(daemon, "the sphinx of quartz", "u-17")
        chat(daemon, "the quick fox", "u-17")
        done = forget(box, "--where", "input_text LIKE '%sphinx%'")
        assert (done["chosen"], done["deleted"]) == (1, 1)
        for expression in ("1); DELETE FROM results; --", "no_such_column = 1", "1 -- all"):
            refused = box.run("forget", "--where", expression, "--config", str(box.directory))
            assert refused.returncode != 0
        assert box.run("forget", "--config", str(box.directory)).returncode == 2
        assert daemon.stop() == 0
    assert box.rows("SELECT input_text FROM requests") == [("the quick fox",)]


def test_the_answer_says_how_long_the_replica_keeps_it(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    with box.serve() as daemon:
        chat(daemon, "the sphinx of quartz", "u-17")
        done = forget(box, "--user", "u-17")
        assert done["remains"]["replica"].startswith("until 20")
        assert daemon.stop() == 0
