"""The daemon and its replica: a clean stop ships the last commit, SIGKILL loses nothing shipped."""

import json
from pathlib import Path

import pytest
from support.daemon import Box, until
from support.processes import is_alive
from support.replicating import contents
from support.s3server import S3Server

from edge_store.replica.status import ReplicaState

CHAT = "/v1/chat/completions"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box", REPLICA__ENABLED="true", REPLICA__STOP_TIMEOUT_S="50")


def restored(box: Box, name: str) -> Path:
    copy = box.directory / name
    done = box.run("replica", "restore", "--config", str(box.directory), "--to", str(copy))
    assert done.returncode == 0, done.stderr
    return copy


def test_clean_stop_ships_the_last_commit(box: Box) -> None:
    for boot in (1, 2):
        with box.serve() as daemon:
            for n in range(3):
                assert daemon.chat(f"question {n}").status_code == 200
            child = daemon.logged("litestream_started")["process_id"]
            assert daemon.stop() == 0
            assert daemon.logged("litestream_stopped")["is_replicated"] is True
        assert not is_alive(child)
        copy = restored(box, f"copy-{boot}.db")
        assert contents(copy) == contents(box.database)
        assert len(contents(copy)) > 3 * boot


def test_killed_daemon_takes_litestream_along_and_loses_nothing_shipped(box: Box) -> None:
    with box.serve() as daemon:
        answers = [daemon.chat(f"question {n}").json()["id"] for n in range(5)]
        child = daemon.logged("litestream_started")["process_id"]
        until(
            lambda: (
                daemon.metrics()["edge_store_replica_lag_seconds"] == 0.0
                and daemon.get("/readyz").json()["replica"]["state"] == "ok"
            ),
            "the replica has caught up",
        )
        until(lambda: len(contents_of_replica(box)) >= len(answers), "all of it is shipped")
        daemon.kill()
    until(lambda: not is_alive(child), "litestream has ended")
    ids = {row[1] for row in contents_of_replica(box)}
    assert ids >= set(answers)


def contents_of_replica(box: Box) -> list[tuple[object, ...]]:
    """The results that a restore gives now."""
    copy = restored(box, "now.db")
    try:
        return [row for row in contents(copy) if len(row) == 3]
    finally:
        copy.unlink()


def test_status_comes_from_the_daemon_while_it_runs(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        port = daemon.url.rpartition(":")[2]
        arguments = ("replica", "status", "--config", str(box.directory), "--json")
        until(
            lambda: daemon.get("/readyz").json()["replica"]["txid"],
            "the replica has been looked at",
        )

        def shown() -> dict[str, str]:
            found: dict[str, str] = json.loads(box.run(*arguments, SERVER__PORT=port).stdout)
            assert found["daemon"] == "running"
            return found

        until(lambda: shown()["state"] == "ok", "it is shown to be replicated")
    found = json.loads(box.run(*arguments, SERVER__PORT=port).stdout)
    assert found["daemon"] == "not running"


def test_store_that_is_away_does_not_keep_the_daemon_from_answering(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3")  # never started
    box = Box.init(
        tmp_path / "box",
        REPLICA__ENABLED="true",
        REPLICA__URL=server.url("fleet"),
        REPLICA__STOP_TIMEOUT_S="1",
    )
    box.environ.update(server.environ)
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert daemon.stop() == 0
        assert daemon.logged("replica_left_behind")
    assert len(contents(box.database)) > 1


def test_a_key_that_was_revoked_since_is_told_of_after_a_restore(box: Box) -> None:
    asked = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    config = ("--config", str(box.directory))
    with box.serve() as daemon:
        done = box.run("keys", "create", "app", "--tenant", "shop", *config)
        key = {"authorization": f"Bearer {done.stdout.strip()}"}
        assert daemon.post(CHAT, json=asked, headers=key).status_code == 200
        assert daemon.stop() == 0
    box.run("keys", "revoke", str(box.scalar("SELECT key_id FROM api_keys")), *config)
    copy = box.directory / "earlier.db"
    done = box.run("replica", "restore", "--to", str(copy), *config)
    assert "1 live ones in this state" in done.stdout
    assert "`edge-store keys ls`, then revoke again" in done.stdout
    for path in (*box.directory.glob("results.db*"), box.directory / "litestream"):
        path.rename(path.with_name(f"old-{path.name}"))
    copy.rename(box.database)
    for is_first in (True, False):
        with box.serve() as daemon:
            assert daemon.post(CHAT, json=asked, headers=key).status_code == 200, "it is live again"
            if is_first:
                assert daemon.logged("keys_restored")["live"] == 1
            assert daemon.stop() == 0
            assert ("keys_restored" in daemon.output()) is is_first
    checks = json.loads(box.run("doctor", "--json", *config).stdout)
    (found,) = [check for check in checks if check["name"] == "keys"]
    assert (found["state"], found["found"][:6]) == ("warning", "1 live")
    box.run("keys", "revoke", str(box.scalar("SELECT key_id FROM api_keys")), *config)
    checks = json.loads(box.run("doctor", "--json", *config).stdout)
    assert [check["state"] for check in checks if check["name"] == "keys"] == ["ok"]


def test_status_is_told_in_words(box: Box) -> None:
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        port = daemon.url.rpartition(":")[2]

        def lines() -> dict[str, str]:
            done = box.run("replica", "status", "--config", str(box.directory), SERVER__PORT=port)
            assert done.returncode == 0, done.stderr
            assert "{" not in done.stdout, done.stdout
            return dict(line.split("  ", maxsplit=1) for line in done.stdout.splitlines())

        def is_ok(seen: dict[str, str]) -> bool:  # one look of both: the state passes
            is_in = "seq 1" in seen.get("confirmed", "")
            return is_in and seen["state"].strip() == f"ok: {ReplicaState.OK.meaning}"

        shown = until(lambda: seen if is_ok(seen := lines()) else None, "confirmed, and ok")
    assert shown["confirmed"].lstrip().startswith("every result up to seq 1, at 20")
    assert "free" in shown["disk"]


def test_pause_holds_over_a_restart_and_ends_by_hand(box: Box) -> None:
    config = ("--config", str(box.directory))
    with box.serve() as daemon:
        done = box.run("replica", "pause", "--for", "1h", *config)
        assert done.stdout.startswith("paused until 20"), done.stderr
        seen = daemon.get("/readyz").json()["replica"]
        assert (seen["state"], seen["cause"]) == ("stalled", "paused")
        assert daemon.stop() == 0
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        assert daemon.get("/readyz").json()["replica"]["cause"] == "paused"
        held = daemon.post(
            "/v1/chat/completions",
            json={"model": "demo", "messages": [{"role": "user", "content": "and now?"}]},
            headers={"x-edge-store-wait": "replicated; timeout=45"},
        )
        assert held.headers["x-edge-store-not-replicated"] == "paused"
        assert "litestream_started" not in daemon.output()
        assert box.run("replica", "resume", *config).returncode == 0
        until(
            lambda: daemon.get("/readyz").json()["replica"]["confirmed"],
            "it has caught up",
        )
        assert daemon.stop() == 0
    assert contents(restored(box, "copy.db")) == contents(box.database)


def test_pause_without_a_daemon_or_with_no_length_is_refused(box: Box) -> None:
    config = ("--config", str(box.directory))
    assert "the daemon does not run" in box.run("replica", "pause", *config).stderr
    assert "is not like" in box.run("replica", "pause", "--for", "long", *config).stderr
