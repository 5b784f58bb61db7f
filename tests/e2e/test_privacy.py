"""What a daemon writes where there are rules of redaction, and what it writes as it is asked to."""

import json
from pathlib import Path

import pytest
from support.daemon import Box

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
    assert "privacy.rules.x = '(' is no regular expression" in done.stderr


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
        said = {"role": "user", "content": SECRET}
        for path, sent in (
            ("/v1/conversations", {"json": {"items": [said]}}),
            ("/v1/conversations", {"json": {"metadata": {"a": SECRET}}}),
            ("/v1/conversations/conv_x", {"json": {"metadata": {"a": SECRET}}}),
            ("/v1/conversations/conv_x/items", {"json": {"items": [said]}}),
            (f"{CHAT}/x", {"json": {"metadata": {"a": SECRET}}}),
            ("/v1/files", {"files": {"file": (SECRET, SECRET.encode())}}),
        ):
            kept = daemon.post(path, headers=headers, **sent)
            assert (kept.status_code, kept.json()["error"]["code"]) == (403, "forbidden"), path
        whole = box.run(
            "keys", "create", "whole", "--tenant", "ward", "--config", str(box.directory)
        )
        key = next(word for word in whole.stdout.split() if word.startswith("es-"))
        quiet = {"authorization": f"Bearer {key}", "x-edge-store-record": "meta"}
        kept = daemon.post("/v1/conversations", json={"items": [said]}, headers=quiet)
        assert kept.status_code == 403  # it would be nothing but kept
        for more in ({}, {"background": True}, {"conversation": "conv_x"}):
            asked = {"model": "demo", "input": SECRET, **more}
            answer = daemon.post("/v1/responses", json=asked, headers=headers)
            assert answer.status_code == (400 if more else 200)
        assert daemon.stop() == 0
    assert not list((box.directory / "files").glob("*"))
    assert SECRET.encode() not in everywhere(box)
    rows = box.rows("SELECT privacy, user_id, output_tokens > 0 FROM results ORDER BY seq")
    meta = '{"record":"meta"}'
    assert rows == [(meta, "ada", 1), ('{"record":"off"}', None, 1), (meta, None, 1)]
    assert box.proven().faults == ()
