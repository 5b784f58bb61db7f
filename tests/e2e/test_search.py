"""``search`` and ``reindex`` on a box that serves, that was killed, that was restored."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.daemon import Box, DaemonProcess, until
from support.searching import Searched
from support.soak.faults import may_mount
from support.terminal import on_terminal

from edge_store.search.file import drop_index

COMMAND = (sys.executable, "-m", "edge_store", "logs")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def run(box: Box, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, name, *arguments],
        env=box.environ, cwd=box.directory.parent, capture_output=True, text=True,
        timeout=box.deadline_s, check=False,
    )  # fmt: skip


def search(box: Box, *arguments: str) -> list[dict[str, object]]:
    done = run(box, "search", *arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_indexed(daemon: DaemonProcess, count: int) -> bool:
    """Whether so many results are in the index."""
    found = daemon.metrics()
    committed = sum(n for name, n in found.items() if name.startswith("edge_store_committed_total"))
    return (
        committed >= count
        and found["edge_store_search_lag_rows"] == 0
        and found["edge_store_search_index_bytes"] > 0
    )


def test_what_was_just_answered_is_found_and_what_is_forgotten_is_not(box: Box) -> None:
    with box.serve() as daemon:
        first = daemon.chat("the sphinx of quartz", user="ada").json()["id"]
        daemon.chat("東京の天気 and some other words")
        until(lambda: is_indexed(daemon, 2), "both are indexed")
        (found,) = search(box, '"sphinx of quartz"', "--in", "prompt", "--since", "1h")
        assert found["id"] == first
        assert found["snippet"] == "the **sphinx of quartz**"
        (found,) = search(box, "天気", "--in", "prompt")
        assert search(box, "sphinx", "--model", "another") == []
        done = box.run("forget", "--user", "ada", "--yes", "--config", str(box.directory))
        assert done.returncode == 0, done.stderr
        assert "search" in json.loads(done.stdout)["remains"]
        assert search(box, "sphinx") == []
        until(lambda: not holds(box, b"sphinx"), "no word of it is in the index")
        assert daemon.stop() == 0
    assert not list(box.directory.glob("search.db-*")), "a clean stop leaves one file"
    assert (box.directory / "search.db").stat().st_mode & 0o777 == 0o640, "for its group to read"
    assert len(search(box, "天気", "--in", "prompt")) == 1, "and without the daemon"


def holds(box: Box, text: bytes) -> bool:
    found = False
    for file in box.directory.glob("search.db*"):
        with suppress(FileNotFoundError):  # the daemon removes and makes them
            found |= text in file.read_bytes()
    return found


def test_after_sigkill_the_index_goes_on(box: Box) -> None:
    count = 0
    for life in range(2):
        with box.serve() as daemon:
            for n in range(15):
                daemon.chat(f"sphinx{life} number{n}")
            count += 15
            if life < 1:  # the last ones are as a rule not in the index yet
                daemon.kill()
                continue
            until(lambda: is_indexed(daemon, 15), "the rest is indexed")
            events = [line["event"] for line in daemon.log]
            assert "search_index_dropped" not in events
            assert "room_failed" not in events
            found = search(box, "sphinx*", "--in", "prompt", "--limit", "100")
            assert len(found) == count


@pytest.mark.slow
def test_reindex_makes_it_anew_by_the_daemon_and_without_it(box: Box) -> None:
    index = box.directory / "search.db"
    with box.serve() as daemon:
        daemon.chat("sphinx")
        until(lambda: is_indexed(daemon, 1), "it is indexed")
        was = index.stat()
        before = was.st_ino, was.st_ctime_ns
        done = run(box, "reindex", "--config", str(box.directory))
        assert done.returncode == 0, done.stderr
        assert "the daemon makes it anew" in done.stdout

        def is_new() -> bool:
            with suppress(FileNotFoundError):
                found = index.stat()
                return (found.st_ino, found.st_ctime_ns) != before
            return False

        until(is_new, "there is another one")
        until(lambda: is_indexed(daemon, 1), "it is indexed again")
        assert len(search(box, "sphinx", "--in", "prompt")) == 1
        daemon.stop()
    index.unlink()
    done = run(box, "reindex", "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    assert index.exists()
    assert len(search(box, "sphinx", "--in", "prompt")) == 1


@pytest.fixture
def own_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that nobody else fills or empties, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    is_mounted = may_mount(folder, "2g")
    try:
        yield folder
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_low_disk_drops_the_index_and_it_comes_back(own_disk: Path) -> None:
    box = Box.init(own_disk / "box")
    index = box.directory / "search.db"
    with box.serve() as daemon:
        daemon.chat("sphinx")
        until(lambda: is_indexed(daemon, 1), "it is indexed")
        daemon.stop()
    reserve = int(
        shutil.disk_usage(box.directory).free * 1.15
    )  # less is free, but not by a quarter
    with box.serve(STORE__DISK_RESERVE_BYTES=str(reserve)) as daemon:
        until(lambda: not index.exists(), "it is dropped")
        assert daemon.chat("quartz").status_code == 200
        done = run(box, "search", "sphinx", "--config", str(box.directory))
        assert len(done.stdout.splitlines()) >= 1, "the texts are read through"
        assert "no search index" in done.stderr
        daemon.stop()
    with box.serve() as daemon:
        until(lambda: index.exists() and is_indexed(daemon, 0), "it is made anew")
        assert len(search(box, "sphinx OR quartz", "--in", "prompt")) == 2


def a_copy(folder: Path, prompt: str, **changes: str) -> Path:
    searched = Searched(folder)
    searched.add(prompt, **changes)
    searched.close()
    drop_index(searched.index_path)
    return searched.path.rename(folder / "box-7.db")


def test_a_copy_is_read_through_or_indexed_beside_it(tmp_path: Path) -> None:
    box, copy = Box(tmp_path / "no box"), a_copy(tmp_path, "sphinx")
    done = run(box, "search", "sphinx", "--in", "prompt", "--db", str(copy))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "no search index" in done.stderr
    assert "--build" in done.stderr
    for _ in range(2):
        done = run(box, "search", "sphinx", "--in", "prompt", "--db", str(copy), "--build")
        assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")
    assert copy.with_name("box-7.db.search.db").exists()
    done = run(box, "search", "sphinx", "--db", str(copy), "--csv")
    assert done.stdout.startswith("created_at,id,model,status,tenant,place,score,snippet\n")
    assert done.stderr == ""


def test_on_a_terminal_what_was_found_is_bold(tmp_path: Path) -> None:
    copy = a_copy(tmp_path, "a sphinx \x1b[31mof quartz 👩‍💻", response_model="m\x1b[2J\nm")
    code, shown = on_terminal(
        [*COMMAND, "search", "sphinx", "--db", str(copy)],
        Box(tmp_path).environ,
    )
    assert code == 0
    assert "a \x1b[1msphinx\x1b[0m �[31mof quartz 👩‍💻" in shown
    assert "  m�[2J m  completed" in shown
    command = [*COMMAND, "search", "absent", "--db", str(copy)]
    assert "nothing was found" in on_terminal(command, Box(tmp_path).environ)[1]
