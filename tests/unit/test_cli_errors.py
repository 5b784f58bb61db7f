import click
import pytest

from edge_store.cli import main as entry
from edge_store.errors import EXIT_CONFIG, ConfigError


def fails_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["edge-store"])
    monkeypatch.setattr("edge_store.cli.main.cli", command)
    entry()


def test_error_from_nested_task_groups_exits_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ConfigError("server.port = 'x'", hint="set another value")
    with pytest.raises(SystemExit) as stop:
        fails_with(ExceptionGroup("outer", [ExceptionGroup("inner", [error])]), monkeypatch)
    assert stop.value.code == EXIT_CONFIG
    assert capsys.readouterr().err == "edge-store: server.port = 'x'\n  set another value\n"


def test_bug_beside_an_expected_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ExceptionGroup("both", [ConfigError("expected"), ZeroDivisionError("a bug")])
    with pytest.raises(ExceptionGroup) as raised:
        fails_with(both, monkeypatch)
    assert raised.value is both
