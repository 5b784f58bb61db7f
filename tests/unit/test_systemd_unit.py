"""The unit file must agree with the code: exit codes, timeouts, credential names."""

from pathlib import Path

import pytest

from edge_store import errors
from edge_store.alerts.room import CREDENTIAL
from edge_store.api.server import FORCE_AFTER_S
from edge_store.config import Config
from edge_store.engine.upstream import KEY_CREDENTIAL

UNIT = Path(__file__).parents[2] / "systemd" / "edge-store.service"


def settings(key: str) -> list[str]:
    """Every value that the unit gives to ``key``, in order."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def test_systemd_does_not_restart_what_a_restart_cannot_mend() -> None:
    (codes,) = settings("RestartPreventExitStatus")
    lasting = (
        errors.ConfigError,
        errors.Corrupt,
        errors.NotAnEdgeStoreFile,
        errors.SchemaTooNew,
    )
    assert {int(code) for code in codes.split()} == {error.exit_code for error in lasting}


@pytest.mark.parametrize(
    "error", [errors.EdgeStoreError, errors.AlreadyRunning, errors.EngineStartFailed]
)
def test_systemd_restarts_after_what_may_pass(error: type[errors.EdgeStoreError]) -> None:
    (codes,) = settings("RestartPreventExitStatus")
    assert str(error.exit_code) not in codes.split()
    assert error.exit_code != 0
    assert settings("Restart") == ["on-failure"]


def test_unit_loads_the_upstream_key() -> None:
    assert f"{KEY_CREDENTIAL}:edge-store.{KEY_CREDENTIAL}" in settings("LoadCredential")


def test_unit_loads_the_alert_urls() -> None:
    assert f"{CREDENTIAL}:edge-store.{CREDENTIAL}" in settings("LoadCredential")


def test_systemd_waits_longer_than_a_slow_stop_takes() -> None:
    config = Config()
    slowest_s = (
        config.server.drain_timeout_s
        + FORCE_AFTER_S
        + config.recorder.commit_timeout_s
        + config.replica.stop_timeout_s
    )
    (timeout_s,) = settings("TimeoutStopSec")
    assert int(timeout_s) >= slowest_s + 20  # for the engine


def test_watchdog_outlasts_the_waits_of_a_healthy_writer() -> None:
    (watchdog_s,) = settings("WatchdogSec")
    # one lock of Litestream's and one slow commit between two heartbeats half a period apart
    config = Config()
    waits_s = config.store.busy_timeout_ms / 1000 + 20
    assert int(watchdog_s) / 2 > waits_s
