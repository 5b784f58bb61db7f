"""`edge-store query` as it is used: on a box whose daemon writes, and as its help says."""

import csv
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.daemon import Box, DaemonProcess

from edge_store.cli.query import query

COUNTED = "select count(*) as n, max(seq) as newest, min(seq) as oldest from results"


@contextmanager
def writing(daemon: DaemonProcess) -> Iterator[None]:
    """Requests come, one after the other."""
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            assert daemon.chat("hello").status_code == 200

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_a_live_box_is_asked_while_it_writes(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    at = ["--config", str(box.directory)]

    def ask(*arguments: str) -> str:
        done = CliRunner().invoke(query, [*arguments, *at])
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        return done.stdout

    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        saved = box.run("query", "save", "counted", COUNTED, *at)
        assert saved.stdout == "@counted is saved\n", saved.stderr
        seen = 0
        with writing(daemon):
            for _ in range(5):
                counted = json.loads(ask("@counted", "--nl"))
                assert counted["n"] == counted["newest"] - counted["oldest"] + 1 >= seen
                seen = counted["n"]
                rows = list(csv.DictReader(io.StringIO(ask("select * from generations", "--csv"))))
                assert len(rows) >= seen
                assert (
                    json.loads(ask(COUNTED, "--since", "1h", "--status", "completed"))["n"] >= seen
                )
        assert "counted" in ask("select name from queries", "--raw", "name")
    assert json.loads(ask("@counted"))["n"] >= seen
    removed = box.run("query", "rm", "@counted", *at)
    assert removed.stdout == "@counted is removed\n", removed.stderr


def examples() -> str:
    """The lines below Example in the help of the commands."""
    assert isinstance(query, click.Group)
    texts = [query.help or "", *(command.help or "" for command in query.commands.values())]
    lines = [re.split(r"^\s*Example:$", text, flags=re.MULTILINE)[1] for text in texts]
    return "\n".join(line.strip() for line in "\n".join(lines).splitlines() if line.strip())


@pytest.mark.slow
def test_the_examples_in_the_help_run(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
    script = (
        f'set -eo pipefail\nedge-store() {{ {sys.executable} -m edge_store "$@"; }}\n{examples()}'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=box.directory, env=box.environ,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert '{"status":"completed","count(*)":1}' in done.stdout
    assert "day,model,requests" in done.stdout
