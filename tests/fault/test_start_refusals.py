"""What must keep the daemon from starting does, at once, with its own exit code and a way out."""

import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import Box

from edge_store.sqlite import PAGE_BYTES


def refusal(box: Box, code: int, **settings: str) -> str:
    """Start the daemon, which must end by itself. Returns what it says."""
    done = box.run("serve", "--config", str(box.directory), "--port", "0", **settings)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("edge-store: ")
    return done.stderr


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """For tests that leave it as it is."""
    return Box.init(tmp_path_factory.mktemp("start") / "box", "--engine", "demo")


@pytest.fixture
def own_box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box", "--engine", "demo")


def test_second_daemon_on_a_database_refuses_and_leaves_the_first_alone(own_box: Box) -> None:
    with own_box.serve() as first:
        said = refusal(own_box, 75)
        assert f"held by process {first.process_id}" in said
        port = first.url.rpartition(":")[2]
        # With one configuration for both, the port is taken too; the lock is what to be told of.
        done = own_box.run("serve", "--config", str(own_box.directory), "--port", port)
        assert done.returncode == 75
        assert first.chat("unharmed?").status_code == 200
        assert first.stop() == 0
    assert own_box.scalar("SELECT count(*) FROM boots WHERE event = 'start'") == 1
    own_box.proven()


def test_init_refuses_what_is_there(box: Box) -> None:
    done = box.run("init", str(box.directory), "--engine", "demo")
    assert done.returncode == 78
    assert "nothing was written" in done.stderr


def test_port_that_is_taken(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = box.run("serve", "--config", str(box.directory), "--port", str(port))
    assert done.returncode == 75, "it may be free when systemd tries again"
    assert f"server.port = {port}" in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SERVER__PORTT": "1"}, "server.portt"),
        ({"SERVER__PORT": "eighty"}, "EDGE_STORE_SERVER__PORT"),
        ({"SERVER__HOST": "192.0.2.1"}, "192.0.2.1"),
        ({"SERVER__HOST": "192.0.2.1"}, "ip address"),
        ({"SERVER__HOST": "no such host"}, "no such host"),
        ({"SERVER__HOST": "no such host"}, "a name that resolves"),
        ({"STORE__PATH": "/nowhere/at/all/results.db"}, "/nowhere/at/all"),
        ({"ENGINE__KIND": "upstream"}, "engine.upstream.base_url"),
        ({"ENGINE__KIND": "upstream", "ENGINE__UPSTREAM__BASE_URL": "ftp://x"}, "ftp://x"),
        ({"ENGINE__KIND": "upstream", "ENGINE__UPSTREAM__BASE_URL": "http://"}, "base_url"),
        ({"DEVICE__ID": "another-box"}, "another-box"),
        ({"REPLICA__URL": "ftp://x"}, "replica.url"),
    ],
)
def test_wrong_setting_is_named(box: Box, settings: dict[str, str], said: str) -> None:
    assert said in refusal(box, 78, **settings)


def test_missing_configuration(box: Box) -> None:
    done = box.run("serve", "--config", str(box.directory / "none.toml"))
    assert done.returncode == 78
    assert "none.toml" in done.stderr


def other_application(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    connection.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"This is no database. " * 1000)


@pytest.mark.parametrize("make", [other_application, no_database])
def test_foreign_file_is_left_as_it_is(box: Box, make: Callable[[Path], None]) -> None:
    path = box.directory / f"{make.__name__}.db"
    make(path)
    before = path.read_bytes()
    assert str(path) in refusal(box, 66, STORE__PATH=str(path))
    assert path.read_bytes() == before


def test_newer_schema(own_box: Box) -> None:
    connection = sqlite3.connect(own_box.database)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    assert "9999" in refusal(own_box, 76)


def test_damaged_file(own_box: Box) -> None:
    with own_box.serve() as daemon:
        for n in range(20):
            assert daemon.chat(f"row {n}").status_code == 200
        assert daemon.stop() == 0
    size = own_box.database.stat().st_size
    with own_box.database.open("r+b") as file:
        for page in range(1, size // PAGE_BYTES):
            file.seek(page * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)
    refusal(own_box, 65)
