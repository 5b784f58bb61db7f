"""`edge-store config check`: whether a daemon could begin with the settings, before it is tried."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.records import new_database

from edge_store.cli.main import cli
from edge_store.config.load import load
from edge_store.errors import ConfigError


def checked(folder: Path, text: str) -> Result:
    file = folder / "next.toml"
    file.write_text('[replica]\nenabled = false\n[engine]\nkind = "demo"\n' + text)
    return CliRunner().invoke(cli, ["config", "check", str(file)])


def test_settings_that_can_be_served_are_said_to_be_and_nothing_is_made(tmp_path: Path) -> None:
    done = checked(tmp_path, "")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'next.toml'}: no fault found\n")
    assert [file.name for file in tmp_path.iterdir()] == ["next.toml"]


def test_settings_of_the_environment_count_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_STORE_RECORDER__SLOTS", "64")
    assert "with 1 settings of the environment" in checked(tmp_path, "").stdout
    monkeypatch.setenv("EDGE_STORE_STORE__PATH", str(tmp_path / "nowhere" / "r.db"))
    assert "there is no folder" in checked(tmp_path, "").stderr


def test_all_that_does_not_hold_is_told_at_once(tmp_path: Path) -> None:
    done = checked(
        tmp_path,
        """
        [store]
        path = "nowhere/results.db"
        [server]
        tls_certificate = "cert.pem"
        [[sinks]]
        name = "hook"
        kind = "webhook"
        url = "https://hook.example.com/x"
        ca_file = "ca.pem"
        """,
    )
    assert done.exit_code == ConfigError.exit_code == 78
    for said in ("no folder", "server.tls_certificate", "the ca_file of the sink 'hook'"):
        assert done.stderr.count(said) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recorder]\nslot = 1\n", "recorder.slot"),
        ("[recorder\n", "is not TOML"),
        ("[replica.x]\n", "replica.x"),
    ],
)
def test_a_file_that_is_no_settings_is_refused_as_the_daemon_does(
    tmp_path: Path, text: str, said: str
) -> None:
    done = checked(tmp_path, text)
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)


def test_a_section_that_is_there_twice_is_told_in_a_users_words(tmp_path: Path) -> None:
    done = checked(tmp_path, "[recorder]\n[recorder]\n")
    assert isinstance(done.exception, ConfigError)
    assert "is there already" in done.exception.hint


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "edge-store.toml"
    file.write_text("[recorder]\nslots = 4\n", encoding="utf-8-sig")
    assert load(str(file), environ={}).config.recorder.slots == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\nhost = "0.0.0.0"\n', "this box has no API keys"),
        ('[server]\nhost = "::"\n', "this box has no API keys"),
        ('[alerts]\nurls_file = "urls"\n', "alerts.urls_file = "),
        ('[retention]\narchive = "ftp://host/x"\n', "retention.archive"),
    ],
)
def test_what_serve_refuses_is_found(tmp_path: Path, text: str, said: str) -> None:
    done = checked(tmp_path, text)
    assert (done.exit_code, said in done.stderr) == (78, True), done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["next.toml"]


def test_what_serve_takes_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("json://localhost\n")
    named = '[alerts]\nurls_file = "urls"\n[retention]\narchive = "archive"\n[server]\n'
    for host in ("127.0.0.1", "::1", "localhost"):
        assert checked(tmp_path, f'{named}host = "{host}"\n').exit_code == 0
    assert checked(tmp_path, f'{named}host = "0.0.0.0"\nallow_open = true\n').exit_code == 0

    is_open = f'{named}host = "0.0.0.0"\n[store]\npath = "r.db"\n'
    connection, _ = new_database(tmp_path / "r.db")
    with closing(connection):
        assert "has no API keys" in checked(tmp_path, is_open).stderr
    made = CliRunner().invoke(
        cli, ["keys", "create", "k", "--tenant", "t", "--config", str(tmp_path / "next.toml")]
    )
    assert made.exit_code == 0, made.output
    assert checked(tmp_path, is_open).exit_code == 0


def test_the_address_of_an_upstream_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    file.write_text(
        '[replica]\nenabled = false\n[engine]\nkind = "upstream"\n'
        '[engine.upstream]\nbase_url = "http://a?b=1"\n'
    )
    done = CliRunner().invoke(cli, ["config", "check", "--config", str(file)])
    assert done.exit_code == 78
    assert "a query" in done.stderr
