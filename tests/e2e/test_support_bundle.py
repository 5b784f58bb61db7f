"""A support bundle says how a box is, and nothing that was asked, answered or is a secret."""

import json
import os
import socket
import sqlite3
import tarfile
from contextlib import closing
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
    subject = Subject(load(str(box.directory)), "edge-store", redact=True)
    path, _ = write_bundle(subject, tmp_path / "bundle.tgz")
    assert "versions.json" in contents(path)


BREAKS = {  # what is written into a box's file -> what the bundle says is wrong
    "[server\nport = 8001\n": "Expected ']'",
    '[device]\nid = "ward-seven\n': "is not TOML",
    "[device]\nid = ward-seven\npassword = geheim-79\n": "is not TOML",
    '[server]\nport = "ward-seven geheim-77"\n': "server.port = (a value) (in",
    '[server]\nprot = 1\n[device]\nid = "ward-seven"\n': "server.(4): there is no such setting",
}


@pytest.mark.parametrize("written", BREAKS)
def test_bundle_is_made_where_the_settings_cannot_be_read(tmp_path: Path, written: str) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo", "--device-id", "ward-seven")
    settings = box.directory / "edge-store.toml"
    sink = '[[sinks]]\nname = "w"\nkind = "webhook"\nurl = "https://who:geheim-78@klinik.example/x"'
    settings.write_text(f"# geheim-76\n{written}{sink}\n")
    config = ("--config", str(box.directory))
    assert box.run("status", *config).returncode == 78
    for more in ((), ("--redact",)):
        bundle = tmp_path / f"bundle{len(more)}.tgz"
        done = box.run("support-bundle", "-o", str(bundle), *more, *config)
        assert done.returncode == 0, done.stderr
        assert "cannot be read" in done.stderr
        found = contents(bundle)
        assert json.loads(found["rows.json"])["results"] == 0
        config_check, *others = json.loads(found["doctor.json"])
        assert (config_check["name"], config_check["state"]) == ("config", "failed")
        assert {"database", "device", "disk"} <= {each["name"] for each in others}
        assert "edge_store" in found["versions.json"]
        form = found["config-form.txt"]
        assert BREAKS[written] in form
        assert "[[sinks]]" in form
        assert "(1 lines of remarks were left out)" in form
        for name in ("status.json", "config.json", "metrics.txt"):
            assert found[name].startswith("not collected: ConfigError: "), name
        for name, text in found.items():
            assert "geheim" not in text, name
            assert not more or "ward-seven" not in text, name
            assert "klinik" not in text, name


def test_file_that_is_not_there_is_no_broken_one(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    done = box.run("support-bundle", "--config", str(tmp_path / "other.toml"))
    assert done.returncode == 78
    assert "there is no such file" in done.stderr


OWN_WORDS = ("frau muster", "TICKET-geheim", "muster-tuned", "haus-muster")
OWN_SETTINGS = """
[[sinks]]
name = "mq"
kind = "mqtt"
url = "mqtts://broker.example"
model = "muster-tuned"
topic = "haus-muster/{device}/x"
[queries]
of-her = "select id from results where user_id = 'frau muster'"
[privacy.rules]
ticket = "TICKET-geheim-[0-9]+"
"""


def test_redacted_bundle_has_sizes_of_what_an_operator_wrote(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    settings = box.directory / "edge-store.toml"
    text = settings.read_text().replace("\n[queries]\n", "\n").replace("\n[privacy.rules]\n", "\n")
    settings.write_text(text + OWN_SETTINGS)
    with closing(sqlite3.connect(box.database)) as connection:
        connection.execute(
            "CREATE VIEW hers AS SELECT id, json_extract(metadata, '$.ward') AS ward "
            "-- frau muster\nFROM results WHERE user_id = 'frau muster'"
        )
    config = ("--config", str(box.directory))
    plain, hidden = tmp_path / "plain.tgz", tmp_path / "hidden.tgz"
    assert box.run("support-bundle", "-o", str(plain), *config).returncode == 0
    assert box.run("support-bundle", "--redact", "-o", str(hidden), *config).returncode == 0
    for words in OWN_WORDS:
        assert words in "".join(contents(plain).values()), "else this proves nothing"
    found = contents(hidden)
    for name, part in found.items():
        assert [words for words in OWN_WORDS if words in part] == [], name
    shown = {each["key"]: each["value"] for each in json.loads(found["config.json"])}
    assert shown["queries"] == {"of-her": "(52 characters)"}
    assert shown["privacy.rules"] == {"ticket": "(20 characters)"}
    assert shown["sinks"][0]["model"] == "(12 characters)"
    assert shown["sinks"][0]["topic"] == "(12 characters){device}(2 characters)"
    view = next(each for each in json.loads(found["schema.json"]) if each["name"] == "hers")
    assert "'$.ward'" in view["sql"]
    assert "user_id = '(13 characters)'" in view["sql"]
    ours = next(each for each in json.loads(found["schema.json"]) if each["name"] == "results")
    assert "'completed'" in ours["sql"]
