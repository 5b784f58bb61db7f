"""Each watch raises its alarm when its condition holds, and resolves it when it does not."""

from pathlib import Path

import pytest
from support.records import DEVICE, make_result, new_database

from edge_store.alerts import AlarmName, Alarms
from edge_store.clock import now_ms
from edge_store.config import AlertsSection
from edge_store.ids import new_result_id
from edge_store.observability.metrics import Metrics
from edge_store.queue.entries import accept_request, refuse_line
from edge_store.queue.records import QueuedRequest
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.caller import Caller
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.recorder.disk import DiskLevel
from edge_store.replica.status import Cause, ReplicaState, ReplicaStatus
from edge_store.result import Boot, Status
from edge_store.sqlite import Connection
from edge_store.watching import (
    CompletenessWatch,
    DiskWatch,
    EngineWatch,
    FailureWatch,
    LossWatch,
    QueueWatch,
    ReplicaWatch,
    count_outcomes,
    oldest_queued,
    select_missing,
)

HOUR_MS = 3_600_000


@pytest.fixture
def alarms() -> Alarms:
    return Alarms(Metrics())


def raised(alarms: Alarms) -> list[str]:
    return [alarm.name.value for alarm in alarms.active]


def test_engine_is_down_after_three_looks_in_a_row(alarms: Alarms) -> None:
    watch = EngineWatch(alarms)
    found = []
    for is_ready in (False, False, True, False, False, False, False, True):
        watch.judge(is_ready=is_ready)
        found.append(raised(alarms))
    assert found == [[]] * 5 + [["engine_down"]] * 2 + [[]]


def test_disk_is_low_once_something_is_given_up(alarms: Alarms) -> None:
    watch = DiskWatch(alarms)
    for level in DiskLevel:
        watch.judge(1000, level)
        assert raised(alarms) == ([] if level is DiskLevel.OK else ["disk_low"])
    assert "refusing" in alarms.active[0].message
    watch.judge(10_000, DiskLevel.OK)
    assert raised(alarms) == []


def test_failures_are_a_share_of_a_sliding_window(alarms: Alarms) -> None:
    watch = FailureWatch(alarms, AlertsSection(failed_share=0.2))
    watch.judge(19, 19, 0)
    assert raised(alarms) == []  # too few to tell
    watch.judge(76, 0, 10)
    assert raised(alarms) == []  # 19 of 95: a fifth, and not more
    watch.judge(1, 1, 20)
    assert raised(alarms) == ["requests_failing"]
    assert alarms.active[0].fields == {"requests": 96, "failed": 20}
    watch.judge(0, 0, 299)
    assert raised(alarms) == ["requests_failing"]
    watch.judge(0, 0, 300)  # the first 19 have left the window
    assert raised(alarms) == []


def test_losses_stand_for_an_hour(alarms: Alarms) -> None:
    watch = LossWatch(alarms, 0)
    watch.judge(0, 10)
    assert raised(alarms) == []
    watch.judge(2, 20)
    watch.judge(2, 3619)
    assert raised(alarms) == ["results_lost"]
    watch.judge(2, 3620)
    assert raised(alarms) == []
    watch.judge(3, 3630)
    assert raised(alarms) == ["results_lost"]


def status(cause: Cause | None, lag_s: float = 0.0) -> ReplicaStatus:
    return ReplicaStatus(
        state=cause.state if cause else ReplicaState.OK,
        cause=cause,
        txid=1,
        replicated_txid=1,
        last_synced_at=1,
        lag_s=lag_s,
        error="it is away",
    )


def test_replica_is_behind_after_as_long_as_is_allowed(alarms: Alarms) -> None:
    watch = ReplicaWatch(alarms, AlertsSection(replica_lag_s=600))
    watch.judge(status(Cause.UNREACHABLE, 600))
    assert raised(alarms) == []
    watch.judge(status(Cause.UNREACHABLE, 601))
    assert raised(alarms) == ["replica_behind"]
    assert "offline: it is away" in alarms.active[0].message
    watch.judge(status(None))
    assert raised(alarms) == []


def test_replica_is_taken_until_it_replicates_again(alarms: Alarms) -> None:
    watch = ReplicaWatch(alarms, AlertsSection())
    watch.judge(status(Cause.TAKEN))
    watch.judge(status(Cause.STARTING))
    assert raised(alarms) == ["replica_taken"]
    watch.judge(status(None))
    assert raised(alarms) == []


def test_box_without_a_replica_has_no_alarm_of_one(alarms: Alarms) -> None:
    alarms.raise_(AlarmName.DRILL_FAILED, "before replication was turned off")
    alarms.raise_(AlarmName.DISK_LOW, "still")
    ReplicaWatch(alarms, AlertsSection()).judge(None)
    assert raised(alarms) == ["disk_low"]


def test_queue_is_old_by_its_oldest(alarms: Alarms) -> None:
    watch = QueueWatch(alarms, AlertsSection(queue_age_s=3600))
    for oldest_at, is_old in ((None, False), (HOUR_MS, False), (HOUR_MS - 1, True), (None, False)):
        watch.judge(oldest_at, 2 * HOUR_MS, is_paused=True)
        assert raised(alarms) == (["queue_old"] if is_old else [])


def test_boots_are_incomplete_while_they_are_new(alarms: Alarms) -> None:
    watch = CompletenessWatch(alarms)
    watch.judge([(7, 10, 2), (5, 3, 1)])
    assert raised(alarms) == ["incomplete"]
    assert alarms.active[0].fields == {"boots": 2, "missing": 3}
    assert "Boot 7 admitted 10" in alarms.active[0].message
    watch.judge([])
    assert raised(alarms) == []


# what they are judged by


def commit(connection: Connection, boot: Boot, upto: int, *seqs: int, **changes: object) -> None:
    results = [make_result(n, boot.boot_id, **changes) for n in seqs]
    write_batch(connection, boot, read_head(connection), upto, results)


def boot_again(connection: Connection) -> Boot:
    return begin_boot(connection, device_id=DEVICE, version="0", engine="demo", engine_version="0")


def test_oldest_queued_is_what_has_no_outcome_yet(tmp_path: Path) -> None:
    connection, _ = new_database(tmp_path / "results.db")
    assert oldest_queued(connection) is None
    ids = []
    for at in (1000, 2000):
        request = QueuedRequest(
            id=new_result_id(),
            created_at=at,
            caller=Caller(),
            endpoint="/v1/chat/completions",
            body=b"{}",
        )
        accept_request(connection, request, 10)
        ids.append(request.id)
    assert oldest_queued(connection) == 1000
    refuse_line(connection, ids[0], None, (400, "invalid_request", "no"))
    assert oldest_queued(connection) == 2000
    connection.close()


def test_failures_are_counted_without_those_of_the_callers(tmp_path: Path) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    commit(connection, boot, 1, 1)
    commit(connection, boot, 2, 2, status=Status.FAILED, http_status=400, error_type="x")
    commit(connection, boot, 3, 3, status=Status.FAILED, http_status=502, error_type="x")
    commit(connection, boot, 4, 4, status=Status.FAILED, http_status=200, error_type="x")
    commit(connection, boot, 5, 5, status=Status.INCOMPLETE, http_status=499, error_type="x")
    assert count_outcomes(connection, 0, 5) == (5, 2)
    assert count_outcomes(connection, 3, 5) == (2, 1)
    assert count_outcomes(connection, 5, 5) == (0, 0)
    connection.close()


def test_missing_is_what_ended_boots_admitted_and_do_not_have(tmp_path: Path) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    now = now_ms()
    commit(connection, boot, 4, 1, 2)
    assert select_missing(connection, now) == []  # it is open: they are in flight
    whole = boot_again(connection)
    commit(connection, whole, 2, 1, 2)
    delete_results(connection, [1], Reason.FORGET)
    end_boot(connection, whole)
    boot_again(connection)
    assert select_missing(connection, now) == [(1, 4, 2)]
    assert select_missing(connection, now + 25 * HOUR_MS) == []
    connection.close()
