"""What the command prints, and exits with, when something went wrong."""

import pytest

from edge_store.cli.main import report
from edge_store.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError


def test_error_from_nested_task_groups_exits_with_its_own_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ConfigError("server.port = 'x'", hint="set another value")
    code = report(ExceptionGroup("outer", [ExceptionGroup("inner", [error])]))
    assert code == EXIT_CONFIG
    assert capsys.readouterr().err == "edge-store: server.port = 'x'\n  set another value\n"


def test_bug_beside_an_expected_error_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    both = ExceptionGroup("both", [ConfigError("expected"), ZeroDivisionError("a bug")])
    assert report(both) == EXIT_FAILURE
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err
