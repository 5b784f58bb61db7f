"""The lines of ``edge-store replica status``: nothing that contradicts itself, no raw names."""

import json
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner

from edge_store.cli.main import cli
from edge_store.cli.replication import replication_lines, stored_lines
from edge_store.replica.status import Cause, Confirmed, ReplicaStatus
from edge_store.replica.traffic import Traffic, Usage

AT = 1_800_000_000_000
ONE = Traffic(requests={"PUT": 1}, bytes={"PUT": 10})
TWO = Traffic(requests={"PUT": 2}, bytes={"PUT": 20})


def shown(cause: Cause | None = None, **fields: Any) -> dict[str, str]:
    state = cause.state if cause else "ok"
    seen = {
        "state": state,
        "cause": cause,
        "txid": 2,
        "replicated_txid": 2,
        "last_synced_at": AT,
        "lag_s": 0.0,
        "error": None,
        **fields,
    }
    status = msgspec.convert(seen, ReplicaStatus)
    return dict(replication_lines(msgspec.to_builtins(status)))


def test_a_pause_by_hand_alarms_nobody_and_has_its_end() -> None:
    lines = shown(Cause.PAUSED, paused_until=AT)
    assert lines["state"] == "stalled"
    assert lines["cause"] == (
        "it was paused by hand, until 2027-01-15T08:00:00Z; `edge-store replica resume` ends it"
    )


def test_another_cause_keeps_the_meaning_of_its_state() -> None:
    lines = shown(Cause.TAKEN)
    assert lines["state"].startswith("broken: it is not, or no longer,")
    assert lines["cause"] == Cause.TAKEN.meaning


def test_a_box_without_a_result_has_none_to_prove() -> None:
    lines = shown(confirmed=Confirmed(seq=0, txid=1, at=AT))
    assert lines["confirmed"].startswith("no result yet, at 20")
    assert "proven" not in lines
    assert "proven" in shown(confirmed=Confirmed(seq=1, txid=1, at=AT))


def test_the_requests_of_the_first_day_are_told_once() -> None:
    assert "asked today" not in shown(usage=Usage(since=AT, at=AT, month=ONE, today=ONE))
    lines = shown(usage=Usage(since=AT, at=AT, month=TWO, today=ONE))
    assert lines["asked today"].startswith("1 PUT")
    assert lines["asked"].startswith("2 PUT")


def test_positions_are_told_as_litestreams_files_are_named() -> None:
    told = shown(txid=27, replicated_txid=None)["replicated"]
    assert told.endswith("; TXID 0000000000000000 of 000000000000001b")


def test_what_lies_in_the_store_is_told_in_words() -> None:
    found = {
        "daemon": "not running",
        "problem": "Connection refused",
        "device_id": "box-1",
        "txid": 0,
        "written_at": None,
        "files": 0,
        "bytes": 0,
        "hint": "nothing is replicated yet",
    }
    lines = dict(stored_lines(found))
    assert lines["daemon"].startswith("not running (Connection refused)")
    assert lines["stored"] == "nothing is replicated yet"
    found |= {"txid": 7, "written_at": "2026-01-31T08:00:00Z", "files": 2, "bytes": 2048}
    stored = dict(stored_lines(found))["stored"]
    assert stored == "TXID 0000000000000007, last written at 2026-01-31T08:00:00Z; 2 files, 2.0 KiB"


def test_replication_that_is_off_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "edge-store.toml").write_text("[replica]\nenabled = false\n")
    command = ["replica", "status", "--config", str(tmp_path)]
    assert CliRunner().invoke(cli, command).stdout == (
        "state  off: nothing is replicated; set replica.enabled = true\n"
    )
    answer = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    assert answer["state"] == "off"
