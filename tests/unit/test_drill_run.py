"""What goes wrong with a drill is told, and does not end the daemon."""

import asyncio
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from support.replicating import Database, wait_for

from edge_store.alerts import Alarms
from edge_store.clock import now_ms
from edge_store.config import Config, ReplicaSection, StoreSection
from edge_store.errors import ReplicationError, StoreError
from edge_store.ids import DeviceId
from edge_store.observability.metrics import Metrics
from edge_store.replica import drill
from edge_store.replica.backoff import Backoff
from edge_store.replica.compare import no_marks, read_marks
from edge_store.replica.drill import Drills, Means, Serving
from edge_store.replica.heads import Proven
from edge_store.replica.proof import Job, Kind, Proof
from edge_store.replica.proving import prove_aside
from edge_store.replica.traffic import NOTHING, Count, Ledger
from edge_store.sqlite import DatabaseThread, driver, open_reader


async def unwritten(*_args: object) -> None:
    """No test here comes to that."""
    raise AssertionError


NO_SERVING = Serving(change=unwritten, is_busy=lambda: False)


@contextmanager
def no_more_files() -> Iterator[None]:
    """None can be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unused = os.open("/", os.O_RDONLY)
    os.close(unused)  # the lowest one
    resource.setrlimit(resource.RLIMIT_NOFILE, (unused, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Defect:
    """A replica with a fault of ours."""

    def __init__(self, error: Exception) -> None:
        self.asked = 0
        self.is_unproven = False
        self.looks = 0
        self._error = error

    def lacks_proof(self) -> bool:
        self.looks += 1
        return self.is_unproven

    async def sync(self, _timeout_s: float) -> None:
        self.asked += 1
        raise self._error


async def test_a_process_that_cannot_be_started_says_nothing_of_the_replica(tmp_path: Path) -> None:
    job = Job(
        url=f"file://{tmp_path}/nowhere",
        device_id=DeviceId("box-1"),
        database=str(tmp_path / "results.db"),
        marks=no_marks(0),
        reserve_bytes=0,
    )
    with no_more_files(), pytest.raises(ReplicationError, match="does not start"):
        await prove_aside(job, lambda _step: None, idle_s=0)


@pytest.mark.parametrize("error", [BlockingIOError("fork"), RuntimeError("a defect")])
async def test_whatever_comes_of_a_drill_there_is_another(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "FIRST_AFTER_S", 0.0)
    monkeypatch.setattr(drill, "AGAIN_S", 0.0)
    database = Database(tmp_path / "results.db", "box-1")
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    replica: Any = Defect(error)
    unused: Any = None
    means = Means(reader, NO_SERVING, unused)
    drills = Drills(Config(), database.boot, replica, means, Alarms(Metrics()))
    running = asyncio.ensure_future(drills.run())
    try:
        await wait_for(lambda: replica.asked >= 3 or running.done(), "drills")
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
        await reader.close()
        database.close()


async def test_a_replica_that_lacks_a_proof_is_drilled_though_none_is_scheduled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "LOOK_S", 0.01)
    monkeypatch.setattr(drill, "AGAIN_S", 0.05)
    database = Database(tmp_path / "results.db", "box-1")
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    replica: Any = Defect(ReplicationError("it is being started again"))
    monkeypatch.setattr(drill, "SYNC_TIMEOUT_S", 0.0)
    replica.status = SimpleNamespace(cause=None, error="not yet")
    unused: Any = None
    config = msgspec.structs.replace(Config(), replica=ReplicaSection(drill_interval_s=0))
    means = Means(reader, NO_SERVING, unused)
    drills = Drills(config, database.boot, replica, means, Alarms(Metrics()))
    with capture_logs() as logs:
        running = asyncio.ensure_future(drills.run())
        try:
            await wait_for(lambda: replica.looks >= 5, "looks")
            assert not logs
            replica.is_unproven = True
            await wait_for(lambda: len(logs) >= 2 or running.done(), "drills")
        finally:
            running.cancel()
            await asyncio.wait({running})
            await reader.close()
            database.close()
    assert {line["event"] for line in logs} == {"drill_postponed"}


async def test_drills_that_cannot_be_read_are_an_error_of_the_store(tmp_path: Path) -> None:
    database = Database(tmp_path / "results.db", "box-1")
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    database.connection.execute("DROP TABLE drills")
    unused: Any = None
    means = Means(reader, NO_SERVING, unused)
    drills = Drills(Config(), database.boot, unused, means, Alarms(Metrics()))
    try:
        with pytest.raises(StoreError, match="no such table"):
            await drills.recall()
    finally:
        await reader.close()
        database.close()


def test_marks_that_cannot_be_read_are_an_error_of_the_store() -> None:
    with closing(driver.connect(":memory:")) as empty, pytest.raises(StoreError):
        read_marks(empty)


async def test_a_first_look_that_fails_is_followed_by_drills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "AGAIN_S", 0.0)
    database = Database(tmp_path / "results.db", "box-1")
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    database.connection.execute("DROP TABLE drills")
    unused: Any = None
    drills = Drills(
        Config(), database.boot, unused, Means(reader, NO_SERVING, unused), Alarms(Metrics())
    )
    with capture_logs() as logs:
        running = asyncio.ensure_future(drills.run())
        try:
            await wait_for(lambda: len(logs) >= 3 or running.done(), "drills")
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.wait({running})
            await reader.close()
            database.close()
    assert {line["event"] for line in logs} == {"drill_postponed"}


class Metered:
    """A replica that has everything, and whose drills have downloaded something."""

    def __init__(self, database: Path) -> None:
        self.ledger = Ledger(database)
        self.ownership = SimpleNamespace(traffic=NOTHING)

    async def sync(self, _timeout_s: float) -> None:
        pass


async def test_what_drills_have_downloaded_leaves_less_for_the_next_even_if_they_were_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "results.db", "box-1")
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    jobs: list[Job] = []

    async def cut(job: Job, _say: object, count: Count, **_more: object) -> Proof:
        jobs.append(job)
        count("GET", 1, 600)
        raise asyncio.CancelledError

    monkeypatch.setattr(drill, "prove_aside", cut)
    section = ReplicaSection(bytes_per_day=1000)
    config = msgspec.structs.replace(
        Config(), replica=section, store=StoreSection(path=str(database.path))
    )
    try:
        for _ in range(3):  # each as after a restart
            replica: Any = Metered(database.path)
            unused: Any = None
            means = Means(reader, NO_SERVING, unused)
            drills = Drills(config, database.boot, replica, means, Alarms(Metrics()))
            with pytest.raises(asyncio.CancelledError):
                await drills.drill_asked(lambda _step: None)
    finally:
        await reader.close()
        database.close()
    assert [job.bytes_left for job in jobs] == [1000, 400, 0]


class Lacking(Metered):
    """One that is seen to lack commits."""

    def __init__(self, database: Path) -> None:
        super().__init__(database)
        self.is_unproven = True

    def lacks_proof(self) -> bool:
        return self.is_unproven

    def drilled(self, proven: Proven | None, failure: str | None) -> None:
        pass


async def drilled_on(
    database: Path,
    interval_s: float,
    proofs: Callable[[Job], Proof],
    is_enough: Callable[[list[Job]], bool],
) -> list[Job]:
    """The first drills of a box whose last one passed just now."""
    jobs: list[Job] = []

    async def proven(job: Job, *_more: object, **_named: object) -> Proof:
        jobs.append(job)
        return proofs(job)

    async def written(*_args: object) -> int:
        return 1

    box = Database(database, "box-1")
    box.connection.execute(
        "INSERT INTO drills (at, timeline, seq_to, rows, txid, duration_ms, passed) "
        "VALUES (?, ?, 1, 1, '1', 1, 1)",
        (now_ms(), box.boot.timeline),
    )
    reader = await DatabaseThread.open(lambda: open_reader(box.path))
    section = ReplicaSection(drill_interval_s=interval_s, bytes_per_day=1)
    config = msgspec.structs.replace(
        Config(), replica=section, store=StoreSection(path=str(box.path))
    )
    replica: Any = Lacking(box.path)
    unused: Any = None
    means = Means(reader, Serving(change=written, is_busy=lambda: False), unused)
    drills = Drills(config, box.boot, replica, means, Alarms(Metrics()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drill, "prove_aside", proven)
        patch.setattr(drill, "LOOK_S", 0.01)
        patch.setattr(drill, "AGAIN_S", 0.05)
        patch.setattr(drill, "AFTER_UNCLEAN_S", 0.0)
        running = asyncio.ensure_future(drills.run())
        try:
            await wait_for(lambda: is_enough(jobs) or running.done(), "drills")
        finally:
            running.cancel()
            await asyncio.wait({running})
            await reader.close()
            box.close()
    return jobs


async def test_an_early_drill_that_fails_is_followed_long_before_the_scheduled_one(
    tmp_path: Path,
) -> None:
    jobs = await drilled_on(
        tmp_path / "results.db",
        86400,
        lambda _job: Proof(live="a page is damaged"),
        lambda jobs: len(jobs) == 3,
    )
    assert [job.is_full for job in jobs] == [True] * 3


async def test_early_drills_that_pass_come_ever_more_rarely_too(tmp_path: Path) -> None:
    began: list[float] = []

    def passed(_job: Job) -> Proof:
        began.append(time.monotonic())
        return Proof()  # of nothing: it is still to be proven

    await drilled_on(tmp_path / "results.db", 86400, passed, lambda jobs: len(jobs) == 5)
    gaps = [after - before for before, after in pairwise(began)]
    assert all(gap >= 0.05 * 2**no for no, gap in enumerate(gaps))


async def test_where_no_full_one_fits_the_budget_incremental_ones_go_on_by_the_schedule(
    tmp_path: Path,
) -> None:
    def refused(job: Job) -> Proof:
        return Proof(undecided="no budget") if job.is_full else Proof(kind=Kind.INCREMENTAL)

    jobs = await drilled_on(
        tmp_path / "results.db", 1.0, refused, lambda jobs: not all(job.is_full for job in jobs)
    )
    assert [job.is_full for job in jobs].index(False) > 0


def test_pauses_double_and_begin_again_after_a_while_without_one() -> None:
    backoff, now = Backoff(600, 86400), 1e6
    pauses = []
    for _ in range(9):
        pauses.append(backoff.begin(now))
        now += pauses[-1]  # at once, when it may
    assert pauses == [600, 1200, 2400, 4800, 9600, 19200, 38400, 76800, 86400]
    assert backoff.begin(now + 86399) == 86400
    assert backoff.begin(now + 86399 + 2 * 86400) == 600
    backoff.reset()
    assert backoff.begin(now) == 600


class Told:
    """What the replica was told of the drills."""

    def __init__(self) -> None:
        self.last: tuple[Proven | None, str | None] | None = None

    def drilled(self, proven: Proven | None, failure: str | None) -> None:
        self.last = (proven, failure)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(1, 5, None)], (Proven(txid="1", seq=5), None)),
        ([(1, 5, None), (0, 9, "bad")], (Proven(txid="1", seq=5), "bad")),
        ([(0, 4, "bad"), (1, 5, None)], (Proven(txid="1", seq=5), None)),
        ([(1, 5, None), (1, 9, "forged in both")], (Proven(txid="1", seq=5), None)),
    ],
)
async def test_a_start_knows_what_is_proven_and_whether_the_newest_drill_failed(
    tmp_path: Path, rows: list[tuple[int, int, str | None]], told: tuple[Proven, str | None]
) -> None:
    database = Database(tmp_path / "results.db", "box-1")
    for passed, seq, failure in rows:
        database.connection.execute(
            "INSERT INTO drills (at, timeline, seq_to, rows, txid, duration_ms, passed, failure) "
            "VALUES (1, ?, ?, 1, '1', 1, ?, ?)",
            (database.boot.timeline, seq, passed, failure),
        )
    reader = await DatabaseThread.open(lambda: open_reader(database.path))
    replica: Any = Told()
    unused: Any = None
    means = Means(reader, NO_SERVING, unused)
    try:
        await Drills(Config(), database.boot, replica, means, Alarms(Metrics())).recall()
    finally:
        await reader.close()
        database.close()
    assert replica.last == told
