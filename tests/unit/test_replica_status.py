"""A status says what was seen: lag grows until everything is known to be replicated."""

import asyncio
import copy
from pathlib import Path

import pytest

from edge_store.replica import positions as positions_module
from edge_store.replica import status
from edge_store.replica.control import Synced
from edge_store.replica.positions import Positions, watch_positions
from edge_store.replica.reached import Reached, Read, Upto
from edge_store.replica.status import Cause, Confirmed, ReplicaState, Tracker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(status, "time", clock)
    return clock


def at(txid: int, replicated_txid: int) -> Synced:
    return Synced(txid=txid, replicated_txid=replicated_txid)


def test_nothing_is_replicated_until_it_is_seen(clock: Clock) -> None:
    tracker = Tracker()
    clock.now += 3
    seen = tracker.status
    assert (seen.state, seen.cause) == (ReplicaState.LAGGING, Cause.STARTING)
    assert (seen.lag_s, seen.last_synced_at) == (3.0, None)
    tracker.saw(at(0, 0))
    assert tracker.status.cause is Cause.STARTING


def test_a_litestream_that_knows_of_nothing_yet_is_not_ok(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(2, 2))
    tracker.ended(Cause.STOPPED)  # a pause
    tracker.saw(at(3, 0))
    assert (tracker.status.state, tracker.status.cause) == (ReplicaState.LAGGING, Cause.STARTING)
    tracker.saw(at(3, 2))
    assert tracker.status.state is ReplicaState.OK


def test_lag_counts_from_the_last_moment_that_all_was_replicated(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(2, 2))
    clock.now += 60
    assert (tracker.status.state, tracker.status.lag_s) == (ReplicaState.OK, 0.0)
    tracker.saw(at(3, 2))
    clock.now += 4
    tracker.saw(at(4, 2))
    assert (tracker.status.state, tracker.status.lag_s) == (ReplicaState.OK, 4.0)
    tracker.saw(at(4, 4))
    assert tracker.status.lag_s == 0.0


def test_replica_that_moves_lags_and_one_that_does_not_is_stalled(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(1, 1))
    for replicated in range(1, 30):
        tracker.saw(at(100, replicated))
        clock.now += 1
    states = [tracker.status.state]
    clock.now += status.STALLED_AFTER_S
    states.append(tracker.status.state)
    tracker.saw(at(100, 100))
    states.append(tracker.status.state)
    assert states == [
        ReplicaState.LAGGING,
        ReplicaState.STALLED,
        ReplicaState.OK,
    ]


def test_error_is_shown_until_everything_is_replicated(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(1, 1))
    tracker.failed("connection refused")
    tracker.saw(at(2, 1))
    assert tracker.status.error == "connection refused"
    tracker.saw(at(2, 2))
    assert tracker.status.error is None


def test_end_of_litestream_begins_the_lag(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(1, 1))
    tracker.ended(Cause.RESTARTING)
    clock.now += 2
    assert (tracker.status.cause, tracker.status.lag_s) == (Cause.RESTARTING, 2.0)
    tracker.stopped(is_replicated=False)
    assert tracker.status.cause is Cause.STOPPED


def test_stop_with_everything_replicated_has_no_lag(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(1, 1))
    tracker.stopped(is_replicated=True)
    clock.now += 9
    assert (tracker.status.cause, tracker.status.lag_s) == (Cause.STOPPED, 0.0)


def confirmed(tracker: Tracker) -> tuple[int, int] | None:
    found = tracker.status.confirmed
    return (found.seq, found.txid) if found else None


def test_result_is_confirmed_once_the_replica_has_the_txid_of_the_look_that_saw_it(
    clock: Clock,
) -> None:
    tracker = Tracker()
    tracker.saw(at(0, 0), seq=0)
    assert confirmed(tracker) is None
    tracker.saw(at(2, 2), seq=5)
    assert confirmed(tracker) == (5, 2)
    tracker.saw(at(3, 2), seq=8)
    assert confirmed(tracker) == (5, 2)
    tracker.saw(at(4, 3), seq=11)
    assert confirmed(tracker) == (8, 3), "its own TXID is there, though not everything is"
    tracker.saw(at(9, 4), seq=30)
    assert confirmed(tracker) == (11, 4)


def test_nothing_is_confirmed_that_was_not_asked_about(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(2, 2))
    assert confirmed(tracker) is None


def test_what_is_passing_is_a_stall_once_it_lasts(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(1, 1))
    tracker.ended(Cause.RESTARTING)
    clock.now += 2
    assert tracker.status.state is ReplicaState.LAGGING
    clock.now += status.STALLED_AFTER_S
    seen = tracker.status
    assert (seen.state, seen.cause) == (ReplicaState.STALLED, Cause.RESTARTING)


class Looked(Reached):
    """Which TXIDs have what was committed before they were asked for, else it cannot be told; and
    in which WAL that was.
    """

    def __init__(self, read: dict[int, Read], salts: tuple[bytes, ...] = (b"a",)) -> None:
        self._read = read
        self._salts = list(salts)

    def written(self) -> Upto:
        salts = self._salts.pop(0) if len(self._salts) > 1 else self._salts[0]
        return Upto(salts, 1)

    def judge(self, _written: object, txid: int) -> Read:
        return self._read.get(txid, Read.UNKNOWN)


async def watched(
    answers: list[tuple[int, int]], committed: list[int], reached: Reached
) -> list[Tracker]:
    """A tracker after each look; what was committed is asked for before each."""
    tracker, seen, left = Tracker(), [], list(answers)
    done = asyncio.Event()

    async def ask() -> Synced:
        if len(left) < len(answers):
            seen.append(copy.copy(tracker))
        if not left:
            done.set()
            await asyncio.Event().wait()
        return at(*left.pop(0))

    def newest() -> int:
        return committed[min(len(answers) - len(left), len(committed) - 1)]

    positions = Positions(tracker, reached)
    positions.newest_seq = newest
    watching = asyncio.create_task(watch_positions(ask, tracker, positions, interval_s=0.001))
    async with asyncio.timeout(60):
        await done.wait()
    watching.cancel()
    return seen


async def test_an_answer_that_comes_late_is_taken_up_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(positions_module, "ANSWER_TIMEOUT_S", 0.001)
    tracker, late, is_hung = Tracker(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(tracker, "hung", lambda _error: is_hung.set())

    async def ask() -> Synced:
        await late.wait()
        return at(2, 2)

    positions = Positions(tracker, Looked({}))
    watching = asyncio.create_task(watch_positions(ask, tracker, positions, interval_s=600.0))
    try:
        async with asyncio.timeout(60):
            await is_hung.wait()
            late.set()
            while tracker.status.txid != 2:  # noqa: ASYNC110  (the tracker tells nobody)
                await asyncio.sleep(0.001)
    finally:
        watching.cancel()


def confirmed_of(tracker: Tracker) -> tuple[int, int]:
    found = tracker.status.confirmed
    assert found is not None
    return found.seq, found.txid


async def test_what_litestream_has_not_read_is_never_confirmed() -> None:
    read = {2: Read.HELD, 3: Read.RESTARTED, 4: Read.MISSED, 5: Read.HELD}
    answers = [(2, 2), (3, 3), (4, 4), (5, 5)]
    looks = await watched(answers, [5, 7, 8, 9], Looked(read))
    assert [each.status.cause for each in looks] == [None] * 4
    assert [seq for seq, _ in map(confirmed_of, looks)] == [5, 5, 5, 9]
    assert [each.status.lag_s > 0 for each in looks] == [False, False, True, False]


async def test_what_it_has_passed_over_is_not_replicated_by_what_it_reads_later() -> None:
    read = {2: Read.HELD, 3: Read.MISSED, 4: Read.HELD}
    answers = [(2, 2), (3, 3), (3, 3), (4, 4), (4, 4)]
    looks = await watched(answers, [5, 7, 8, 9, 10], Looked(read, (b"a", b"a", b"a", b"b", b"b")))
    causes = [each.status.cause for each in looks]
    assert causes == [None, None, Cause.UNREAD, Cause.UNREAD, Cause.UNREAD]
    assert [seq for seq, _ in map(confirmed_of, looks)] == [5] * 5


async def test_what_it_has_skipped_confirms_nothing_until_it_is_made_good() -> None:
    read = {2: Read.HELD, 3: Read.SKIPPED, 4: Read.SKIPPED, 5: Read.HELD}
    looks = await watched([(2, 2), (3, 3), (4, 4), (5, 5)], [5, 7, 8, 9], Looked(read))
    assert [each.status.cause for each in looks] == [None, Cause.UNREAD, Cause.UNREAD, None]
    assert [seq for seq, _ in map(confirmed_of, looks)] == [5, 5, 5, 9]
    assert "another program" in str(looks[1].status.error)
    assert looks[-1].status.error is None


def test_what_is_sent_later_does_not_make_good_what_it_lacks() -> None:
    tracker = Tracker()
    tracker.held(at(3, 3), 5)
    tracker.missed(at(4, 4), is_unread=True)
    tracker.uploaded(5)
    seen = tracker.status
    assert (seen.cause, seen.txid, seen.replicated_txid) == (Cause.UNREAD, 5, 5)
    assert confirmed(tracker) == (5, 3)
    tracker.held(at(6, 6), 7)
    assert tracker.status.cause is None
    assert confirmed(tracker) == (7, 6)


async def test_what_it_has_read_after_all_is_confirmed() -> None:
    read = {2: Read.HELD, 3: Read.MISSED, 4: Read.HELD}
    looks = await watched([(2, 2), (3, 3), (3, 3), (4, 4)], [5, 7, 8, 9], Looked(read))
    assert [each.status.cause for each in looks] == [None, None, Cause.UNREAD, None]
    assert confirmed_of(looks[-1]) == (9, 4)


async def test_commits_that_litestream_does_not_see_are_withdrawn_where_only_txids_tell() -> None:
    looks = await watched(
        [(2, 2), (3, 3), (3, 3), (3, 3), (3, 3), (4, 4)], [5, 7, 8, 9], Looked({})
    )
    causes = [each.status.cause for each in looks]
    assert causes == [None, None, None, Cause.UNREAD, Cause.UNREAD, None]
    confirmed = [each.status.confirmed for each in looks]
    seqs = [(each.seq, each.txid) for each in confirmed if each is not None]
    assert seqs == [(5, 2), (7, 3), (8, 3), (5, 2), (5, 2), (9, 4)]
    assert looks[3].status.state is ReplicaState.STALLED


def test_a_full_disk_is_called_that_at_once_and_only_while_something_waits(clock: Clock) -> None:
    tracker = Tracker()
    tracker.saw(at(2, 2))
    tracker.failed("compaction failed: write /a.ltx.tmp: no space left on device")
    causes = [tracker.status.cause]
    tracker.saw(at(3, 2))
    causes.append(tracker.status.cause)
    tracker.hung("no answer")
    causes.append(tracker.status.cause)
    clock.now += status.STALLED_AFTER_S
    tracker.saw(at(4, 2))
    causes.append(tracker.status.cause)
    tracker.ended(Cause.PAUSED)
    causes.append(tracker.status.cause)
    tracker.saw(at(4, 4))
    causes.append(tracker.status.cause)
    assert causes == [None, Cause.FULL, Cause.FULL, Cause.FULL, Cause.PAUSED, None]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (("operation error S3: PutObject, https response error StatusCode: 403, RequestID: , "
         "HostID: , api error QuotaExceeded: The quota is exceeded"), Cause.FULL),
        ("api error XMinioAdminBucketQuotaExceeded: Bucket quota exceeded", Cause.FULL),
        ("write /a.ltx.tmp: disk quota exceeded", Cause.FULL),
        (("googleapi: Error 429: Quota exceeded for quota metric 'Writes' and limit 'Writes per "
         "minute' of service 'storage.googleapis.com', rateLimitExceeded"), None),
        ("googleapi: Error 403: Too many requests, quotaExceeded", None),
    ],
)  # fmt: skip
def test_a_quota_of_bytes_is_a_full_disk_and_one_of_requests_is_none(
    clock: Clock, said: str, cause: Cause | None
) -> None:
    tracker = Tracker()
    tracker.saw(at(2, 2))
    tracker.failed(said)
    tracker.saw(at(3, 2))
    assert tracker.status.cause is cause


async def test_a_commit_that_an_earlier_answer_may_have_held_makes_no_stall() -> None:
    looks = await watched([(3, 3), (3, 3), (3, 3), (3, 3)], [7, 8], Looked({}))
    assert [each.status.cause for each in looks] == [None] * 4


def test_states_are_ordered_from_good_to_bad() -> None:
    assert [state.level for state in ReplicaState] == [0, 1, 2, 3, 4]
    assert all(cause.state is not ReplicaState.OK for cause in Cause)


def test_every_state_and_cause_is_documented_as_it_is_shown() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for state in ReplicaState:
        assert f"| {state.level} | `{state.value}` | {state.meaning} |" in page
    for cause in Cause:
        assert f"| `{cause.value}` | `{cause.state.value}` | {cause.meaning}" in page


def test_what_was_known_before_a_restart_holds_until_the_replica_has_gone_back(
    clock: Clock,
) -> None:
    tracker = Tracker()
    tracker.remember(Confirmed(seq=7, txid=5, at=1))
    assert confirmed(tracker) == (7, 5)
    tracker.saw(at(6, 0), 9)  # Litestream has not looked there yet
    assert confirmed(tracker) == (7, 5)
    tracker.saw(at(6, 5), 9)
    assert confirmed(tracker) == (7, 5)
    tracker.saw(at(6, 1), 9)
    assert confirmed(tracker) is None
    tracker.saw(at(6, 6), 9)
    tracker.remember(Confirmed(seq=7, txid=5, at=1))
    assert confirmed(tracker) == (9, 6)
    tracker.remember(None)
    assert confirmed(tracker) is None, "it was begun anew"
