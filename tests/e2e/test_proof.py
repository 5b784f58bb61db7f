"""Ledger, verification and receipts of a real box: live, killed, restored and pulled."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from support.daemon import DEADLINE_S, Box, DaemonProcess, until
from support.load import Load
from support.replicating import contents

from edge_store.identity import create_identity
from edge_store.ids import new_result_id
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.sqlite import driver, open_writer

SEED = 20261122
ROUNDS = 5
CONNECTIONS = 8
OUTCOMES = (
    "completed", "incomplete", "failed", "cancelled", "deleted_forget", "deleted_retention", "lost",
    "in_flight", "interrupted", "not_stored",
)  # fmt: skip


def replicated(directory: Path, device_id: str = "box-1") -> Box:
    return Box.init(
        directory, "--engine", "demo", "--device-id", device_id,
        REPLICA__ENABLED="true", REPLICA__URL=f"file://{directory}/replica",
        REPLICA__STOP_TIMEOUT_S="50", ENGINE__DEMO__TOKEN_DELAY_MS="1",
    )  # fmt: skip


def ledger(box: Box, *options: str) -> list[dict[str, Any]]:
    done = box.run("ledger", "--config", str(box.directory), "--nl", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def verify(box: Box, *options: str) -> tuple[int, dict[str, Any]]:
    done = box.run("verify", "--json", *options)
    assert done.returncode in (0, 65), done.stderr
    return done.returncode, json.loads(done.stdout)


def receipt(daemon: DaemonProcess, result_id: str) -> dict[str, Any]:
    return dict(daemon.get(f"/v1/results/{result_id}/receipt").json())


class Seen(NamedTuple):
    """What the clients of one boot saw."""

    acknowledged: dict[str, str]
    cut: list[str]  # ids of answers that had begun
    asked: int  # sent, and not refused


def boot_under_load(box: Box, acknowledged: int, *, is_killed: bool) -> tuple[str, Seen]:
    """One boot that is killed, or stopped, once so many answers were seen to their end."""
    with box.serve() as daemon:
        boot_id = daemon.get("/readyz").json()["boot_id"]
        with Load(daemon.url, CONNECTIONS, boot_id) as load:
            load.wait_acknowledged(acknowledged)
            if is_killed:
                daemon.kill()
            else:
                assert daemon.stop() == 0
    asked = load.sent - len(load.refused) - (0 if is_killed else len(load.broken))
    return boot_id, Seen(load.acknowledged, load.cut, asked)


def is_exact(row: dict[str, Any]) -> bool:
    return bool(row["admitted"] == sum(row[name] for name in OUTCOMES))


def totals(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in (*OUTCOMES, "admitted")}


def test_the_sum_is_what_the_clients_saw_after_kills_and_deletions(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    box = replicated(tmp_path / "box")
    boots = dict(
        boot_under_load(box, moments.randint(20, 120), is_killed=number != ROUNDS - 2)
        for number in range(ROUNDS)
    )
    stored = {found["id"] for found in box.query("SELECT id FROM results")}
    with box.serve() as daemon:  # a boot that goes on: every one before it is accounted for
        rows = ledger(box)
        for seen in boots.values():
            assert seen.acknowledged.keys() <= stored
            for result_id in seen.cut:  # it is stored, or its receipt says why it is not
                found = receipt(daemon, result_id)
                expected = "committed" if result_id in stored else "lost"
                assert found["state"] == expected, found
                assert expected == "committed" or "was cut at" in found["message"]
        assert daemon.stop() == 0
    states = [row["state"] for row in rows]
    assert states == [*["interrupted"] * (ROUNDS - 2), "ended", "interrupted", "open"]
    for row, seen in zip(rows, boots.values(), strict=False):
        assert is_exact(row), row
        recorded = sum(row[name] for name in ("completed", "incomplete", "failed", "cancelled"))
        assert len(seen.acknowledged) <= recorded <= row["admitted"] <= seen.asked, row
        if row["state"] == "interrupted":
            assert row["unknown_after"] < row["unknown_until"]
            assert row["interrupted"] <= CONNECTIONS
        else:
            assert recorded == row["admitted"] == seen.asked, row

    before = ledger(box)
    connection = open_writer(box.database)
    delete_results(connection, list(range(1, 31, 3)), Reason.RETENTION)
    delete_results(connection, list(range(2, 31, 3)), Reason.FORGET)
    delete_results(connection, list(range(3, 31, 3)), Reason.RETENTION, What.CONTENT)
    connection.close()
    after = ledger(box)
    for was, row in zip(before, after, strict=True):
        assert is_exact(row), row
        assert (row["admitted"], row["percent"]) == (was["admitted"], was["percent"])
    total = totals(after)
    assert (total["deleted_retention"], total["deleted_forget"]) == (10, 10)
    assert totals(ledger(box, "--by", "day")) == total
    code, checked = verify(box, "--config", str(box.directory))
    assert (code, checked["faults"]) == (0, [])
    (gone,) = box.rows("SELECT id FROM deletions WHERE seq = 2")
    done = box.run("receipt", gone[0], "--config", str(box.directory))
    assert done.returncode == 1
    assert "because of forget" in done.stdout


def test_live_restored_and_pulled_files_are_verified_and_receipts_follow_the_replica(
    tmp_path: Path,
) -> None:
    box = replicated(tmp_path / "box")
    with box.serve() as daemon, Load(daemon.url, CONNECTIONS) as load:
        load.wait_acknowledged(50)
        code, live = verify(box, "--config", str(box.directory))
        assert (code, live["faults"]) == (0, [])
        assert live["results"] > 0
        load.leave()
        result_id = list(load.acknowledged)[-1]
        first = receipt(daemon, result_id)
        assert first["state"] == "committed"
        assert first["proven"] is None

        def is_replicated() -> bool:
            return bool(receipt(daemon, result_id)["replicated"]["state"] == "replicated")

        until(is_replicated, "the replica is known to hold it")
        found = receipt(daemon, result_id)
        assert int(found["replicated"]["txid"], 16) > 0
        assert found["committed"] == first["committed"]
        assert daemon.get(f"/v1/results/{new_result_id()}/receipt").status_code == 404
        assert daemon.stop() == 0
    code, whole = verify(box, "--config", str(box.directory))
    head = whole["newest_digest"]

    restored = tmp_path / "restored.db"
    done = box.run("replica", "restore", "--config", str(box.directory), "--to", str(restored))
    assert done.returncode == 0, done.stderr
    done = box.run(
        "fleet", "pull", "--from", f"file://{box.directory}/replica", "--into", str(tmp_path / "f")
    )
    assert done.returncode == 0, done.stderr
    pulled = tmp_path / "f" / "box-1.db"
    for copy in (restored, pulled):
        assert verify(box, "--db", str(copy), "--head", head) == (0, whole)
        assert contents(copy) == contents(box.database)
        shown = box.run("receipt", result_id, "--db", str(copy), "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["committed"] == first["committed"]
    forged = tmp_path / "forged.db"
    for statement, told in (
        ("UPDATE outputs SET output_text = 'other' WHERE seq = 3", "seq 3 ("),
        ("DELETE FROM results WHERE seq = 4", "neither here nor declared deleted"),
        ("UPDATE commits SET at = at + 1 WHERE commit_id = 2", "commit 2"),
    ):
        shutil.copyfile(pulled, forged)
        connection = driver.connect(str(forged), isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(statement)
        connection.close()
        code, found = verify(box, "--db", str(forged))
        assert code == 65
        assert any(told in fault for fault in found["faults"]), found
    code, found = verify(box, "--db", str(pulled), "--head", "ab" * 32)
    assert code == 65
    assert "was cut before it" in found["faults"][0]


def test_commands_say_what_is_wrong_with_their_arguments(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    done = box.run("verify", "--config", str(box.directory), "--head", "abc")
    assert done.returncode == 2
    assert "64 hexadecimal digits" in done.stderr
    for command in (("verify",), ("ledger",), ("receipt", new_result_id())):
        done = box.run(*command, "--db", str(tmp_path / "none.db"))
        assert done.returncode == 66, done.stderr
    done = box.run("verify", "--config", str(box.directory))
    assert done.stdout.splitlines() == [
        "commits  0", "results  0", "newest   none yet", "faults   none",
    ]  # fmt: skip
    for text in ("x", "\udcff\udcfe"):  # bytes that are no UTF-8
        done = box.run("receipt", text, "--config", str(box.directory))
        assert done.returncode == 2
        assert "is not the id of a result" in done.stderr
        assert "Traceback" not in done.stderr
    for command in (("verify",), ("ledger",), ("receipt", new_result_id())):
        done = box.run(*command, "--db", "x.db", "--config", str(box.directory))
        assert done.returncode == 2
        assert "give --db or --config, not both" in done.stderr


def added(rows: list[dict[str, Any]], *names: str) -> list[int]:
    return [sum(row[name] for row in rows) for name in names]


def test_what_a_kill_interrupted_is_counted_before_the_next_start(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    says = "[demo:slow=10000] for ever"  # some 30 tokens
    endless = {"model": "demo", "messages": [{"role": "user", "content": says}], "stream": True}
    by_day = ("--by", "day")
    with box.serve() as daemon:
        chats = f"{daemon.url}/v1/chat/completions"
        with httpx.stream("POST", chats, json=endless, timeout=DEADLINE_S) as answer:
            assert answer.status_code == 200  # it is admitted
            assert daemon.chat("short", max_tokens=1).status_code == 200  # and its COMMIT says so
            (going,) = ledger(box)
            assert (going["state"], going["in_flight"], going["interrupted"]) == ("open", 1, 0)
            days = ledger(box, *by_day)  # two of them over UTC's midnight
            assert added(days, "in_flight", "cuts") == [1, 0]
            daemon.kill()
    cut, *_ = ledger(box)
    assert (cut["state"], cut["admitted"], cut["in_flight"], cut["interrupted"]) == (
        "interrupted", 2, 0, 1)  # fmt: skip
    assert cut["percent"] == 50
    days = ledger(box, *by_day)
    assert added(days, "admitted", "in_flight", "interrupted", "cuts") == [2, 0, 1, 1]
    for more in ((), by_day):
        done = box.run("stats", "--config", str(box.directory), "--nl", *more)
        counts = [json.loads(line) for line in done.stdout.splitlines()]
        assert added(counts, "admitted", "missing") == [2, 1]
        assert len(counts) > 1 or counts[0]["complete_percent"] == 50
    copy = tmp_path / "copy"  # where nobody knows whether it goes on
    copy.mkdir()
    for path in box.directory.glob("results.db*"):
        shutil.copy(path, copy)
    said = "boot 1 had not ended when this copy was made"
    of_copy = ("--db", str(copy / box.database.name))
    for command, share in (("ledger", "percent"), ("stats", "complete_percent")):
        for more in ((), by_day):
            done = box.run(command, *of_copy, "--nl", *more)
            *_, newest = (json.loads(line) for line in done.stdout.splitlines())
            assert newest[share] is None
            assert said in done.stderr
        done = box.run(command, *of_copy, "--table")
        assert said in done.stdout
        assert "100" not in done.stdout.partition("\n")[2]
    table = box.run("ledger", "--config", str(box.directory), "--table").stdout
    assert "it ended without a shutdown. What had no outcome is interrupted here" in table
    with box.serve():  # it counts no other than that
        counted, _ = ledger(box)
        assert counted == {**cut, "unknown_until": counted["unknown_until"]}
        assert counted["unknown_until"] > counted["unknown_after"]
        assert ledger(box, *by_day) == days


def test_killed_box_is_not_said_to_go_on_and_a_changed_row_is_not_said_to_be_committed(
    tmp_path: Path,
) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    config = ("--config", str(box.directory))
    with box.serve() as daemon:
        result_id = daemon.chat("kept").headers["x-edge-store-id"]
        missing = new_result_id()
        done = box.run("receipt", missing, *config)
        assert "may be in flight" in done.stdout
        assert "has no end" not in box.run("ledger", *config, "--table").stdout
        daemon.kill()
    done = box.run("receipt", missing, *config)
    assert done.returncode == 1
    assert "lost, or never given" in done.stdout
    assert "no daemon answers" in done.stdout
    done = box.run("ledger", *config, "--table")
    assert "boot 1 has no end" in done.stdout
    assert "no daemon answers" in done.stdout
    done = box.run("ledger", *config, "--nl")
    assert [json.loads(line)["boot_no"] for line in done.stdout.splitlines()] == [1]
    assert "boot 1 has no end" in done.stderr
    connection = open_writer(box.database)
    create_identity(connection, "", reason="restored")
    connection.execute("UPDATE outputs SET output_text = 'other'")
    connection.close()
    copy = tmp_path / "copy.db"
    shutil.copyfile(box.database, copy)
    done = box.run("ledger", "--db", str(copy), "--table")
    assert "boot 1 had not ended when this copy was made" in done.stdout
    assert "restored on 20" in done.stdout
    done = box.run("receipt", missing, "--db", str(copy))
    assert done.returncode == 1
    assert "unknown: this file was restored on 20" in done.stdout
    done = box.run("receipt", result_id.upper(), *config)
    assert done.returncode == 65
    assert "changed since its commit" in done.stdout
    assert "committed at" not in done.stdout
