"""An answer, whose text lies in the file once, is given again byte for byte wherever it is read."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import Box

PROMPT = 'Say "this" \\ again:\n\té 字 😀 \x7f </script>  '
READ = """
import hashlib, sqlite3, sys
box = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
(body,) = box.execute("SELECT response_body FROM bodies").fetchone()
print(hashlib.sha256(body).hexdigest())
"""


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def test_an_answer_is_read_as_it_was_sent(box: Box, tmp_path: Path) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": PROMPT}]}
    key = {"idempotency-key": "one"}
    with box.serve() as daemon:
        sent = daemon.post("/v1/chat/completions", json=body, headers=key)
        assert sent.status_code == 200
        text = sent.json()["choices"][0]["message"]["content"]
        assert "</script>" in text
        result_id = sent.headers["x-edge-store-id"]
        again = daemon.post("/v1/chat/completions", json=body, headers=key)
        assert again.content == sent.content
        assert daemon.get(f"/v1/results/{result_id}/raw").content == sent.content
        assert daemon.stop() == 0
    with box.serve() as daemon:  # from the file alone
        again = daemon.post("/v1/chat/completions", json=body, headers=key)
        assert (again.content, again.headers["x-edge-store-id"]) == (sent.content, result_id)
        assert daemon.stop() == 0

    kept, place = box.rows("SELECT octet_length(response_body), output_at FROM requests")[0]
    assert place is not None
    assert kept < len(sent.content) - len(text)
    config = ("--config", str(box.directory))
    shown = box.run("logs", "show", result_id, "--raw", "response", *config)
    assert shown.stdout == sent.text
    target = tmp_path / "all.jsonl"
    done = box.run("export", str(target), "--bodies", *config)
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_bytes())["response_body"] == sent.text
    other = subprocess.run(
        [sys.executable, "-c", READ, str(box.database)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == hashlib.sha256(sent.content).hexdigest()
    assert box.run("verify", *config).returncode == 0

    # taken into another box it is the same there
    there = Box.init(tmp_path / "there")
    assert there.run("import", str(target), "--config", str(there.directory)).returncode == 0
    assert there.scalar("SELECT response_body FROM bodies") == sent.content
    chosen = box.run("forget", "--where", "response_body LIKE '%</script>%'", "--dry-run", *config)
    assert json.loads(chosen.stdout)["results"] == 1, "where it is the text that is chosen by"
