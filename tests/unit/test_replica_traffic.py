"""What is counted is what was asked, and its sums outlive the process; the bill is made of them."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from edge_store.cli.main import cli
from edge_store.config import PACES, Pace, ReplicaProfile, ReplicaSection
from edge_store.errors import ReplicaNotFound
from edge_store.replica import positions, traffic
from edge_store.replica.childlog import ChildLog
from edge_store.replica.control import Synced
from edge_store.replica.cost import PRICES, bill, class_of
from edge_store.replica.location import parse_location
from edge_store.replica.positions import Positions
from edge_store.replica.reached import Reached
from edge_store.replica.status import ReplicaState, Tracker
from edge_store.replica.traffic import (
    NOTHING,
    Ledger,
    Reporting,
    Reports,
    Traffic,
    Usage,
    read_usage,
)

DAY_MS = 86_400_000
FILE = "http://s3/edge/p/box-a/results.db/0001/0000000000000004-000000000000000b.ltx"


class Clock:
    now = 1_000 * DAY_MS + 1_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(traffic, "now_ms", clock.now_ms)
    return clock


def test_what_drills_download_counts_for_24_hours_and_over_restarts(
    clock: Clock, tmp_path: Path
) -> None:
    database = tmp_path / "results.db"
    ledger = Ledger(database)
    ledger.add("GET", 1, 5)
    ledger.add_drill("GET", 1, 100)
    clock.now += DAY_MS // 2
    ledger.add_drill("GET", 1, 10)
    ledger.keep(NOTHING)
    ledger = Ledger(database)
    assert ledger.drilled_bytes == 110
    assert ledger.usage.month.bytes == {"GET": 115}
    clock.now += DAY_MS // 2 + DAY_MS // 12
    assert ledger.drilled_bytes == 10
    clock.now += DAY_MS // 2
    assert ledger.drilled_bytes == 0


def test_what_was_downloaded_while_the_clock_was_ahead_does_not_count_for_ever(
    clock: Clock, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "results.db")
    clock.now += 1000 * DAY_MS
    ledger.add_drill("GET", 1, 100)
    clock.now -= 1000 * DAY_MS
    assert ledger.drilled_bytes == 0


@pytest.mark.parametrize(
    ("method", "url", "verb"),
    [
        ("PUT", f"{FILE}?x-id=PutObject", "PUT"),
        ("POST", f"{FILE}?uploads=", "PUT"),
        ("PUT", f"{FILE}?partNumber=1&uploadId=x&x-id=UploadPart", "PUT"),
        ("POST", f"{FILE}?uploadId=x", "PUT"),
        ("GET", "http://s3/edge?list-type=2&prefix=p%2F0001%2F", "LIST"),
        ("GET", f"{FILE}?x-id=GetObject", "GET"),
        ("POST", "http://s3/edge?delete=", "DELETE"),
        ("DELETE", FILE, "DELETE"),
    ],
)
def test_each_request_is_counted_as_what_is_billed(method: str, url: str, verb: str) -> None:
    entry = {"msg": "s3 request", "s3": {"method": method, "url": url}}
    told = Reports(counts_requests=True).read(entry)
    assert told is not None
    assert (told.verb, told.requests, told.bytes) == (verb, 1, 0)


@pytest.mark.parametrize(
    "entry",
    [
        {"msg": "ltx file uploaded", "level": 0, "size": 7},
        {"msg": "compaction complete", "level": 1, "txid": "1f", "size": 7},
        {"msg": "s3 request", "s3": {"method": "GET", "url": "http://[s3/"}},
        {"msg": "s3 request", "s3": None},
    ],
)
def test_a_line_in_other_words_is_passed_over(entry: dict[str, Any]) -> None:
    assert Reports(counts_requests=True).read(entry) is None


def test_a_merged_file_that_is_read_again_counts_as_large_as_it_is() -> None:
    reports = Reports(counts_requests=True)
    txids = {"min": "0000000000000004", "max": "000000000000000b"}
    merged = {"msg": "compaction complete", "level": 1, "txid": txids, "size": 185_304}
    assert reports.read(merged) == Reporting(verb="PUT", bytes=185_304)
    entry = {"msg": "s3 request", "s3": {"method": "GET", "url": FILE}}
    assert reports.read(entry) == Reporting(verb="GET", requests=1, bytes=185_304)


def test_a_sent_file_tells_how_far_the_replica_is_and_a_merged_one_does_not() -> None:
    reports = Reports(counts_requests=False)
    sent = {"msg": "ltx file uploaded", "level": 0, "maxTXID": "000000000000001f", "size": 7}
    told = Reporting(verb="PUT", requests=1, bytes=7, replicated_txid=31)
    assert reports.read(sent) == told
    merged = reports.read(sent | {"level": 1})
    assert merged is not None
    assert merged.replicated_txid is None


def test_sums_go_on_over_restarts_and_days(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "results.db"
    assert read_usage(database) is None
    for day in range(3):
        ledger = Ledger(database)
        ledger.add("PUT", 5, 100)
        ledger.keep(Traffic(requests={"GET": 2}, bytes={"GET": 7}))
        ledger.keep(Traffic(requests={"GET": 3}, bytes={"GET": 8}))
        assert ledger.since_start == Traffic(
            requests={"PUT": 5, "GET": 3}, bytes={"PUT": 100, "GET": 8}
        )
        assert ledger.usage.month.requests == {"PUT": 5 * (day + 1), "GET": 3 * (day + 1)}
        assert ledger.usage.today == ledger.since_start
        clock.now += DAY_MS
    usage = read_usage(database)
    assert usage is not None
    assert usage.since == Clock.now
    assert usage.month.bytes == {"PUT": 300, "GET": 24}


def test_a_clock_that_began_in_1970_stretches_no_bill(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "results.db"
    clock.now = 0
    ledger = Ledger(database)
    ledger.add("PUT", 5, 100)
    ledger.keep(NOTHING)
    clock.now = 20_000 * DAY_MS
    ledger.add("PUT", 7, 100)
    ledger.keep(NOTHING)
    clock.now += DAY_MS
    ledger.keep(NOTHING)
    assert (ledger.usage.since, ledger.usage.at) == (20_000 * DAY_MS, clock.now)
    assert ledger.usage.month.requests == {"PUT": 7}
    clock.now = 0  # the next start, until the time is set
    again = Ledger(database)
    again.add("PUT", 1, 1)
    again.keep(NOTHING)
    assert (again.usage.since, again.usage.at) == (20_000 * DAY_MS, 20_001 * DAY_MS)
    assert again.usage.month.requests == {"PUT": 8}


def test_a_month_is_told_of_an_hour_or_when_asked(tmp_path: Path, clock: Clock) -> None:
    config = tmp_path / "edge-store.toml"
    config.write_text(f"[store]\npath = '{tmp_path}/results.db'\n")
    ledger = Ledger(tmp_path / "results.db")
    ledger.add("PUT", 60, 100)
    command = ["replica", "cost", "--config", str(config), "--stored-bytes", "0"]
    clock.now += 30 * 60_000
    ledger.keep(NOTHING)
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, ReplicaNotFound)
    assert "only 30 min are counted" in str(done.exception)
    early = CliRunner().invoke(cli, [*command, "--early"])
    assert "30 days like the 30 min from" in early.stdout
    assert "86400" in early.stdout  # 60 in half an hour
    clock.now += 30 * 60_000
    ledger.keep(NOTHING)
    assert CliRunner().invoke(cli, command).exit_code == 0


def test_what_is_older_than_a_month_is_in_no_bill_and_in_the_end_in_no_file(
    tmp_path: Path, clock: Clock
) -> None:
    database = tmp_path / "results.db"
    ledger = Ledger(database)
    ledger.add("PUT", 1, 1)
    ledger.keep(NOTHING)
    clock.now += 40 * DAY_MS
    ledger.add("PUT", 10, 10)
    ledger.keep(NOTHING)
    assert ledger.usage.month.requests == {"PUT": 10}
    assert ledger.usage.since == 1_011 * DAY_MS
    clock.now += 40 * DAY_MS
    ledger.keep(NOTHING)
    assert b"1972-09-27" not in (tmp_path / "replica-traffic.json").read_bytes()


def test_a_file_of_sums_that_is_not_understood_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "replica-traffic.json").write_text("{")
    Ledger(tmp_path / "results.db").keep(NOTHING)
    usage = read_usage(tmp_path / "results.db")
    assert usage is not None
    assert usage.month.requests == {}


def test_a_month_costs_what_its_requests_and_bytes_do() -> None:
    counted = Traffic(
        requests={"PUT": 10_000, "LIST": 1_000, "GET": 500, "DELETE": 9_000},
        bytes={"PUT": 10**9, "GET": 10**9},
    )
    usage = Usage(since=0, at=3 * DAY_MS, month=counted, today=counted)
    items = {item.what: item.cost for item in bill(usage, PRICES["s3"], 10**10)}
    assert items == {
        "PUT requests": pytest.approx(0.5),
        "LIST requests": pytest.approx(0.05),
        "GET requests": pytest.approx(0.002),
        "DELETE requests": 0.0,
        "bytes read": pytest.approx(0.9),
        "bytes written": 0.0,
        "bytes stored": pytest.approx(0.23),
    }


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file:///replicas", "own"),
        ("s3://b/p", "s3"),
        ("s3://b/p?endpoint=https://s3.eu-central-1.amazonaws.com", "s3"),
        ("s3://b/p?endpoint=https://abc.r2.cloudflarestorage.com", "r2"),
        ("s3://b/p?endpoint=https://minio.example:9000", None),
    ],
)
def test_a_list_of_prices_is_taken_only_where_it_fits(url: str, name: str | None) -> None:
    assert class_of(parse_location(url)) == name


def test_a_profile_gives_way_to_what_is_set_by_itself() -> None:
    section = ReplicaSection(profile=ReplicaProfile.FRUGAL, snapshot_interval_s=7200.0)
    assert section.pace.snapshot_interval_s == 7200.0
    assert section.pace.monitor_interval_s == PACES[ReplicaProfile.FRUGAL].monitor_interval_s
    with pytest.raises(ValueError, match=r"monitor_interval_s = 0\.01 must be 0 .* at least 0\.1"):
        ReplicaSection(monitor_interval_s=0.01)


def test_snapshots_are_kept_no_shorter_than_the_time_between_two() -> None:
    ReplicaSection(snapshot_interval_s=120.0, snapshot_retention_s=120.0)
    with pytest.raises(ValueError, match=r"retention_s = 60 is less than .*interval_s = 120:"):
        ReplicaSection(snapshot_interval_s=120.0, snapshot_retention_s=60.0)
    with pytest.raises(ValueError, match=r"interval_s = 43200 of the profile balanced:"):
        ReplicaSection(snapshot_retention_s=3600.0)


@pytest.mark.parametrize("pace", PACES.values(), ids=list(PACES))
def test_a_pace_keeps_its_lag_and_removes_no_file_before_it_is_merged(pace: Pace) -> None:
    assert pace.monitor_interval_s + 1.0 <= pace.lag_max_s
    assert pace.l0_retention_s >= pace.levels_s[0] + pace.l0_check_s
    assert pace.snapshot_retention_s >= 3 * pace.snapshot_interval_s


def test_what_litestream_says_it_has_sent_counts_before_the_next_look() -> None:
    tracker = Tracker(asked_every_s=55.0)
    tracker.saw(Synced(txid=3, replicated_txid=2), 7)
    assert tracker.status.confirmed is None
    tracker.uploaded(3)
    status = tracker.status
    assert status.confirmed is not None
    assert (status.confirmed.seq, status.confirmed.txid, status.lag_s) == (7, 3, 0.0)


@pytest.mark.parametrize(
    ("asked_every_s", "seconds", "state"),
    [
        (0.0, 11.0, ReplicaState.LAGGING),
        (0.0, 21.0, ReplicaState.STALLED),
        (8.0, 21.0, ReplicaState.OK),
        (55.0, 60.0, ReplicaState.OK),
        (55.0, 93.0, ReplicaState.LAGGING),
        (55.0, 131.0, ReplicaState.STALLED),
    ],
)
def test_what_is_late_is_what_its_profile_says(
    asked_every_s: float, seconds: float, state: ReplicaState, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tracker = Tracker(asked_every_s)
    tracker.saw(Synced(txid=2, replicated_txid=2))
    tracker.saw(Synced(txid=3, replicated_txid=2))
    now += seconds
    assert tracker.status.state is state


def test_what_was_sent_before_the_answer_about_it_arrives_is_not_forgotten() -> None:
    tracker = Tracker()
    tracker.saw(Synced(txid=2, replicated_txid=2), 5)
    tracker.uploaded(3)
    tracker.saw(Synced(txid=3, replicated_txid=2), 7)
    confirmed = tracker.status.confirmed
    assert confirmed is not None
    assert (confirmed.seq, confirmed.txid) == (7, 3)


async def test_many_results_are_taken_up_before_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "COUNT_EVERY_S", 0.01)
    newest, asked = 0, 0
    both = asyncio.Event()

    async def ask() -> Synced:
        nonlocal newest, asked
        asked += 1
        newest += 11
        if asked == 2:
            both.set()
        return Synced(txid=asked, replicated_txid=asked)

    tracker = Tracker()
    asking = Positions(tracker, Reached(tmp_path / "results.db", tmp_path))
    asking.newest_seq = lambda: newest
    watching = asyncio.create_task(
        positions.watch_positions(ask, tracker, asking, interval_s=600.0, waiting_max=10)
    )
    async with asyncio.timeout(60):
        await both.wait()
    watching.cancel()


def test_the_bill_takes_the_prices_that_are_given(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "edge-store.toml").write_text(f'[replica]\nurl = "file://{tmp_path}/replica"\n')
    ledger = Ledger(tmp_path / "results.db")
    ledger.add("PUT", 1000, 10**9)
    clock.now += DAY_MS
    ledger.keep(NOTHING)
    arguments = ["replica", "cost", "--config", str(tmp_path), "--json"]
    done = CliRunner().invoke(cli, [*arguments, "--stored-bytes", "1000000000"])
    assert json.loads(done.stdout)["usd"] == 0.0
    given = ["--put-price", "0.01", "--stored-gb-price", "0.5"]
    done = CliRunner().invoke(cli, [*arguments, "--stored-bytes", "1000000000", *given])
    assert json.loads(done.stdout)["usd"] == pytest.approx(30 * 0.01 + 0.5)
    assert json.loads(done.stdout)["profile"] == "balanced"


async def test_an_error_about_a_level_of_files_is_one_and_debug_lines_are_not_passed_on() -> None:
    stream = asyncio.StreamReader()
    for level, message in (("ERROR", "compaction failed"), ("DEBUG", "ltx file uploaded")):
        line = f'{{"time":"2026-11-29T20:46:20Z","level":"{level}","msg":"{message}","level":1}}\n'
        stream.feed_data(line.encode())
    listed = '"0000000000000001-0000000000000001.ltx",' * 1000
    stream.feed_data(
        f'{{"time":"x","level":"DEBUG","msg":"s3 LIST page","s3":[{listed}""]}}\n'.encode()
    )
    stream.feed_eof()
    errors: list[str] = []
    entries: list[str] = []
    with capture_logs() as logs:
        await ChildLog(
            stream, on_error=errors.append, on_entry=lambda entry: entries.append(entry["msg"])
        ).run()
    assert errors == ["compaction failed"]
    assert entries == ["compaction failed", "ltx file uploaded"]
    assert [line["message"] for line in logs] == ["compaction failed"]
