"""A support bundle says how a box is, and nothing that was asked, answered or is a secret."""

import json
import os
import socket
import tarfile
from pathlib import Path

import pytest
from support.daemon import Box

from edge_store.config import load
from edge_store.support import write_bundle
from edge_store.support.parts import Subject

PROMPT, ANSWER_SOURCE = "the-patient-is-called-Ada", "tell-me-about-the-moon-landing"
SECRETS = {
    "EDGE_STORE_ADMIN_KEY": "admin-geheim-1",
    "EDGE_STORE_SINK_HOOK": "hook-geheim-2",
    "AWS_SECRET_ACCESS_KEY": "aws-geheim-3",
    "EDGE_STORE_ALERT_URLS": "json://user:alert-geheim-4@127.0.0.1:1/",
}
TRACEBACK = r"Traceback\n  File \"/a/b.py\", line 3, in run\nValueError"
JOURNAL = f"""#!/bin/sh
cat <<'END'
<6>{{"event": "result_committed", "seq": 7, "error": "{PROMPT}", "latency_ms": 4711.5}}
<3>{{"event": "said {PROMPT} by a library", "logger": "sglang", "level": "error"}}
<3>{{"event": "room_failed", "room": "{PROMPT} x", "exception": "{TRACEBACK}: {PROMPT}"}}
Authorization: Bearer es-0123456789abcdef0123456789abcdef {PROMPT}
END
"""


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        return {
            Path(entry.name).name: (tar.extractfile(entry) or file.open("rb")).read().decode()
            for entry in tar.getmembers()
        }


def test_bundle_has_no_prompt_no_secret_and_redacted_no_name(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "clinic-nord", "--engine", "demo", "--device-id", "ward-seven")
    programs = tmp_path / "bin"
    programs.mkdir()
    journal = programs / "journalctl"
    journal.write_text(JOURNAL)
    journal.chmod(0o755)
    secret = box.directory / "hook.key"
    secret.write_text("file-geheim-5")
    with (box.directory / "edge-store.toml").open("a") as file:
        file.write(
            f'\n[[sinks]]\nname = "other"\nkind = "webhook"\nsecret_file = "{secret}"\n'
            'url = "http://hidden-host.example.com:1/x"\ntenant = "ward-b"\n'
        )
    config = ("--config", str(box.directory))
    made = box.run("keys", "create", "frau-muster", "--tenant", "station-a", *config)
    key = next(word for word in made.stdout.split() if word.startswith("es-"))
    box.environ.update(SECRETS)
    box.environ["PATH"] = f"{programs}:{box.environ['PATH']}"
    with box.serve() as daemon:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": f"{PROMPT} {ANSWER_SOURCE}"}],
            "metadata": {"who": PROMPT},
            "user": PROMPT,
        }
        headers = {"authorization": f"Bearer {key}"}
        answered = daemon.post("/v1/chat/completions", json=body, headers=headers)
        assert answered.status_code == 200
        answer = answered.json()["choices"][0]["message"]["content"]
        port = daemon.url.rpartition(":")[2]
        box.environ["EDGE_STORE_SERVER__PORT"] = port
        plain, hidden = tmp_path / "plain.tgz", tmp_path / "hidden.tgz"
        for output, more in ((plain, ()), (hidden, ("--redact",))):
            done = box.run("support-bundle", "-o", str(output), *more, *config)
            assert done.returncode == 0, done.stderr
            assert str(output) in done.stdout
    planted = [PROMPT, ANSWER_SOURCE, answer, key, *SECRETS.values(), "file-geheim-5"]
    planted += ["alert-geheim-4", "//hidden-host.example.com:1/x"]
    for bundle in map(contents, (plain, hidden)):
        for name, text in bundle.items():
            assert [each for each in planted if each in text] == [], name
    found = contents(plain)
    assert json.loads(found["status.json"])["daemon"]["device_id"] == "ward-seven"
    assert json.loads(found["rows.json"])["results"] == 1
    assert json.loads(found["completeness.json"])[0]["completed"] == 1
    assert "edge_store_committed_total" in found["metrics.txt"]
    events = [json.loads(line) for line in found["log.jsonl"].splitlines()[:-1]]
    assert events[0] == {"event": "result_committed", "seq": 7, "latency_ms": 4711.5}
    assert events[2]["exception"] == ["Traceback", '  File "/a/b.py", line 3, in run', "ValueError"]
    names = ["ward-seven", "clinic-nord", "frau-muster", "station-a", "ward-b", "hidden-host"]
    names += [str(tmp_path), socket.gethostname()]
    for name, text in contents(hidden).items():
        assert [each for each in names if each in text] == [], name
    pseudonym = json.loads(contents(hidden)["status.json"])["daemon"]["device_id"]
    assert pseudonym.startswith("device-")
    assert pseudonym in contents(hidden)["doctor.json"], "one name for one thing"
    assert plain.stat().st_mode & 0o077 == 0
    again = box.run("support-bundle", "-o", str(plain), *config)
    assert again.returncode == 2


def test_user_without_a_home_gets_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box.init(tmp_path / "box")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as of a container: not in passwd
    with pytest.raises(RuntimeError):
        Path.home()
    subject = Subject(load(str(box.directory)), "edge-store")
    path, _ = write_bundle(subject, tmp_path / "bundle.tgz", redact=True)
    assert "versions.json" in contents(path)
