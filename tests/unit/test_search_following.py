"""The indexer beside requests keeps up, lets go of a file that is to go, and makes it anew."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs
from support.searching import Searched

from edge_store.alerts import Alarms
from edge_store.config import Config, SearchSection
from edge_store.observability.metrics import Metrics
from edge_store.recorder.around import Around
from edge_store.recorder.commits import Commits
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.recorder.disk import Disk
from edge_store.search import find, following
from edge_store.search.cleaning import clean, empty
from edge_store.search.file import drop_index, index_bytes, open_index, take_index_away
from edge_store.search.following import follow
from edge_store.search.index import Step, step
from edge_store.sqlite import Connection, driver

RESERVE = 1000
ROOM = 2**30  # for any index
DEADLINE_S = 60.0


class Followed(NamedTuple):
    box: Searched
    around: Around
    free: list[int]  # bytes of the disk, as the next look finds them
    looks: list[int]  # what each has found

    def add(self, text: str) -> int:
        seq = self.box.add(text)
        self.around.commits.advance(seq)
        return seq

    def found(self, text: str) -> list[int] | None:
        """By the index; None without one."""
        answer = self.box.ask(text, is_newest=True)
        return [each.seq for each in answer.found] if answer.has_index else None


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110  (a file tells nobody)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def followed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    enabled: bool = True,
    is_crowded: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Followed]:
    """A database whose results are followed."""
    monkeypatch.setattr(following, "LOOK_S", 0.05)
    monkeypatch.setattr(following, "GATHER_S", 0.01)
    monkeypatch.setattr(find, "UNINDEXED_MAX", -1)  # what is found is in the index
    free, looks = [RESERVE + ROOM], list[int]()
    usage = type(shutil.disk_usage("/"))

    def disk_usage(_path: Path) -> Any:
        looks.append(free[0])
        return usage(free[0], 0, free[0])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    box = Searched(folder)
    box.index.close()
    drop_index(box.index_path)
    metrics = Metrics()
    config = Config(search=SearchSection(enabled=enabled))
    around = Around(
        config, box.path, box.boot, Commits(0), _never, Disk(box.path, RESERVE), metrics,
        Alarms(metrics), None, asyncio.Event(), is_crowded,
    )  # fmt: skip
    task = asyncio.create_task(follow(around))
    try:
        yield Followed(box, around, free, looks)
        around.commits.end()
        await asyncio.wait_for(task, DEADLINE_S)
    finally:
        task.cancel()
        box.close()


async def _never(*_args: Any) -> Any:
    raise AssertionError("an index changes nothing of the database")


def gauge(run: Followed, name: str) -> float:
    value = run.around.metrics.registry.get_sample_value(f"edge_store_{name}")
    assert value is not None
    return value


async def test_results_are_found_and_deleted_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(tmp_path, monkeypatch) as run:
        first, second = run.add("toner"), run.add("toner")
        await until(lambda: run.found("toner") == [second, first])
        path = run.box.index_path
        await until(lambda: gauge(run, "search_index_bytes") == index_bytes(path) > 0)
        assert gauge(run, "search_lag_rows") == 0
        delete_results(run.box.writer, [first], Reason.FORGET)
        await until(lambda: run.found("toner") == [second])


async def test_nothing_is_read_while_requests_take_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, go_on = 0, asyncio.Event()

    def is_crowded() -> bool:
        nonlocal looks
        looks += 1
        return not go_on.is_set()

    async with followed(tmp_path, monkeypatch, is_crowded=is_crowded) as run:
        seq = run.add("toner")
        await until(lambda: looks > 3)
        assert run.found("toner") == []
        go_on.set()
        await until(lambda: run.found("toner") == [seq])


async def test_a_low_disk_takes_the_index_and_room_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(tmp_path, monkeypatch) as run:
        seq = run.add("toner")
        await until(lambda: run.found("toner") == [seq])
        size = int(gauge(run, "search_index_bytes"))
        run.free[0] = RESERVE - 1
        run.around.disk.check()
        assert not run.box.index_path.exists(), "it is dropped at once"
        await until(lambda: not _open_files(run.box.index_path))
        late = run.add("toner")
        assert run.found("toner") is None
        run.free[0] = RESERVE + size // 2  # as what it has left makes room for a part of it
        run.around.disk.check()
        await until(lambda: run.looks.count(run.free[0]) > 3)
        assert run.found("toner") is None, "nor is it made to be dropped again"
        await until(lambda: gauge(run, "search_index_bytes") == 0)
        run.free[0] = RESERVE + ROOM
        await until(lambda: run.found("toner") == [late, seq])


async def test_an_index_of_fewer_results_needs_less_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(tmp_path, monkeypatch) as run:
        seqs = [run.add(f"toner {n} " + "ink " * 20_000) for n in range(20)]
        await until(lambda: run.found("toner") == seqs[::-1])
        path = run.box.index_path
        await until(lambda: gauge(run, "search_index_bytes") == index_bytes(path) > 0)
        size = index_bytes(path)
        run.free[0] = RESERVE - 1
        run.around.disk.check()
        await until(lambda: not _open_files(run.box.index_path))
        run.free[0] = RESERVE + size // 2
        run.around.disk.check()
        await until(lambda: run.looks.count(run.free[0]) > 3)
        assert run.found("toner") is None, size
        delete_results(run.box.writer, seqs[:-1], Reason.RETENTION)
        await until(lambda: run.found("toner") == seqs[-1:])


async def test_a_reader_in_the_way_is_waited_for_with_what_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[bool] = []

    def emptied(connection: Connection) -> bool:
        tried.append(empty(connection))
        return tried[-1]

    monkeypatch.setattr(following, "QUIET_S", 0.01)
    monkeypatch.setattr(following, "empty", emptied)
    async with followed(tmp_path, monkeypatch) as run:
        gone, kept = run.add("zyzzyvaqq"), run.add("toner")
        await until(lambda: run.found("toner") == [kept])
        with capture_logs() as logs:
            reader = driver.connect(run.box.index_path, isolation_level=None)
            reader.execute("BEGIN")
            assert reader.execute("SELECT seq FROM state").fetchone() == (kept,)
            delete_results(run.box.writer, [gone], Reason.FORGET)
            await until(lambda: tried[-3:] == [False] * 3)
        assert [entry["event"] for entry in logs] == ["checkpoint_blocked"], "told once"
        assert _holds(run.box.index_path, b"zyzzyvaqq")
        reader.close()
        await until(lambda: not _holds(run.box.index_path, b"zyzzyvaqq"))


async def test_what_is_forgotten_does_not_wait_for_all_that_is_to_be_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind(*args: Any, **options: Any) -> Step:
        return step(*args, **options)._replace(is_more=True)

    monkeypatch.setattr(following, "step", behind)
    monkeypatch.setattr(following, "LATEST_S", (0.05, 600.0))
    async with followed(tmp_path, monkeypatch) as run:
        gone, kept = run.add("zyzzyvaqq"), run.add("toner")
        await until(lambda: run.found("toner") == [kept])
        delete_results(run.box.writer, [gone], Reason.FORGET)
        await until(lambda: not _holds(run.box.index_path, b"zyzzyvaqq"))


async def test_what_is_forgotten_waits_until_no_more_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention has deleted nothing for long: what it leaves is due at any time."""
    looks: list[bool] = []

    def cleaned(*args: Any, forgotten: bool, expired: bool) -> bool:
        if not forgotten:
            looks.append(expired)
        return clean(*args, forgotten=forgotten, expired=expired)

    monkeypatch.setattr(following, "clean", cleaned)
    monkeypatch.setattr(following, "QUIET_S", 3600.0)
    async with followed(tmp_path, monkeypatch) as run:
        gone, kept = run.add("zyzzyvaqq"), run.add("toner")
        await until(lambda: run.found("toner") == [kept])
        delete_results(run.box.writer, [gone], Reason.FORGET)
        await until(lambda: len(looks) > 3)
        assert looks == [True] * len(looks)
        assert run.found("zyzzyvaqq") == [], "it is hidden meanwhile"
        assert _holds(run.box.index_path, b"zyzzyvaqq")


def _holds(path: Path, text: bytes) -> bool:
    files = (path, path.with_name(f"{path.name}-wal"))
    return any(text in file.read_bytes() for file in files if file.exists())


def _open_files(path: Path) -> list[str]:
    """What this process has open of it, deleted or not."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(each.readlink()))
        except OSError:
            continue
    return [link for link in links if link.startswith(str(path))]


@pytest.mark.parametrize("drop", [drop_index, take_index_away])
async def test_an_index_that_somebody_deletes_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drop: Callable[[Path], object]
) -> None:
    async with followed(tmp_path, monkeypatch) as run:
        seq = run.add("toner")
        await until(lambda: run.found("toner") == [seq])
        drop(run.box.index_path)
        await until(lambda: run.found("toner") == [seq])


async def test_an_index_that_is_taken_away_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [True]

    def taken(path: Path, reader: Connection) -> Connection:
        connection = open_index(path, reader)
        if first:
            take_index_away(path)
            first.clear()
        return connection

    monkeypatch.setattr(following, "open_index", taken)
    async with followed(tmp_path, monkeypatch) as run:
        seq = run.add("toner")
        await until(lambda: run.found("toner") == [seq])


async def test_a_broken_index_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with followed(tmp_path, monkeypatch) as run:
        seq = run.add("toner")
        await until(lambda: run.found("toner") == [seq])
        other = open_index(run.box.index_path, run.box.reader)
        other.execute("DROP TABLE words_of_0_data")
        other.close()
        late = run.add("toner")
        await until(lambda: run.found("toner") == [late, seq])


async def test_a_disabled_search_keeps_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(tmp_path, monkeypatch, enabled=False) as run:
        open_index(run.box.index_path, run.box.reader).close()  # as an earlier daemon left it
        run.add("toner")
        await until(lambda: not run.box.index_path.exists())
