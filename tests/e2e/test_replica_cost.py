"""What is counted is what the store was asked for; a profile keeps its lag, and a slower one asks
for less.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from support.lags import arrivals, lags
from support.motoserver import MotoServer
from support.replicating import DEADLINE_S, Database, replicate, wait_for

from edge_store.alerts import Alarms
from edge_store.bench.figures import percentile
from edge_store.config import PACES, ReplicaProfile, ReplicaSection
from edge_store.observability.metrics import Metrics
from edge_store.replica.assembly import replicating
from edge_store.replica.traffic import read_usage
from edge_store.sqlite import DatabaseThread, open_writer

DEVICE = "box-a"
REQUEST = re.compile(r'"(?:\x1b\[\d+m)*(GET|HEAD|PUT|POST|DELETE) (/\S*) HTTP')
BUSY_S = 13.0  # `balanced` looks each 8 s
MERGED_S, MERGED_S_MAX = 4.0, 180.0  # both levels, once
FILES_MIN, PARTED_S_MAX = 10, 200.0  # of `fast`: two of `balanced` are between them
WINDOWS, WINDOW_S = 3, 40.0  # with a merge of the first level in each
VERBS = {"PUT", "LIST", "GET", "DELETE"}


def asked_of(server: MotoServer) -> Counter[str]:
    """What the server was asked for, by what is billed."""
    verbs: Counter[str] = Counter()
    for method, url in REQUEST.findall(server.log.read_text()):
        query = url.partition("?")[2]
        match method:
            case "GET" if "list-type" in query:
                verbs["LIST"] += 1
            case "GET" | "HEAD":
                verbs["GET"] += 1
            case "POST" if query.startswith("delete"):
                verbs["DELETE"] += 1
            case "DELETE":
                verbs["DELETE"] += 1
            case _:
                verbs["PUT"] += 1
    return verbs


async def test_counters_equal_what_the_server_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files in parts, merges of two levels, and removals."""
    pace = msgspec.structs.replace(
        PACES[ReplicaProfile.FAST],
        levels_s=(1.0, 3.0),
        l0_retention_s=2.0,
        l0_check_s=1.0,
        head_every_s=1.0,
    )
    monkeypatch.setitem(PACES, ReplicaProfile.FAST, pace)
    with MotoServer(tmp_path / "moto.log") as moto:
        for name, value in moto.environ.items():
            monkeypatch.setenv(name, value)
        before = asked_of(moto)
        section = ReplicaSection(url=moto.url("fleet"), profile=ReplicaProfile.FAST)
        database = Database(tmp_path / "results.db", DEVICE)
        database.write(1500, body_bytes=4000)  # over 5 MB: sent in parts
        thread = await DatabaseThread.open(lambda: open_writer(database.path))
        room = replicating(section, database.path, database.boot, Alarms(Metrics()), thread)
        try:
            async with room as replica:
                began = time.monotonic()
                while (took_s := time.monotonic() - began) < MERGED_S_MAX and (
                    took_s < MERGED_S or set(asked_of(moto) - before) != VERBS
                ):
                    database.write(1, body_bytes=4000)
                    await replica.sync(60)
                    await asyncio.sleep(0.3)
        finally:
            await thread.close()
            database.close()
        usage = read_usage(database.path)
        assert usage is not None
        counted = Counter(usage.month.requests)
        # The stop may cut one on its way; others may be on it still.
        await wait_for(
            lambda: (counted - (asked_of(moto) - before)).total() <= 1,
            "the server has seen what was counted",
        )
        asked = asked_of(moto) - before
        listed = await asyncio.to_thread(
            httpx.get,
            f"{moto.endpoint}/edge?list-type=2",
            timeout=DEADLINE_S,
            trust_env=False,
        )
    assert not asked - counted
    assert set(asked) == VERBS, "the run must ask in every way"
    sizes = sum(int(size) for size in re.findall(r"<Size>(\d+)</Size>", listed.text))
    assert usage.month.bytes["PUT"] >= sizes > 5_000_000


def level_of(url: str) -> Path:
    """The folder of the files of level 0."""
    return Path(url.removeprefix("file://")) / DEVICE / "results.db" / "ltx" / "0"


async def committing(
    folder: Path,
    url: str,
    profile: ReplicaProfile,
    goes_on: Callable[[float], bool],
    results: int = 1,
) -> list[float]:
    """A box that commits 20 times a second, so many results each time, while ``goes_on`` after so
    many seconds. How late each commit reached the store, in s.
    """
    folder.mkdir()  # noqa: ASYNC240  (before anything is measured)
    database = Database(folder / "results.db", DEVICE)
    committed = []
    async with replicate(database.path, DEVICE, url, profile=profile, as_served=True):
        begins_at = time.monotonic()
        while goes_on(time.monotonic() - begins_at):
            began = time.monotonic()
            database.write(results, body_bytes=1000)
            committed.append(time.time())
            await asyncio.sleep(max(0.0, began + 0.05 - time.monotonic()))
    database.close()
    return lags(committed, arrivals(level_of(url)))


async def test_a_slower_profile_asks_for_less(tmp_path: Path) -> None:
    """Side by side, until it is seen: a machine that holds one up may need longer for that."""
    urls = {profile: f"file://{tmp_path}/to-{profile}" for profile in ReplicaProfile}
    seen: list[tuple[int, int, int]] = []

    def goes_on(after_s: float) -> bool:
        if are_parted():  # each stops, and sends what is left
            return False
        fast, balanced, frugal = (len(list(level_of(url).glob("*.ltx"))) for url in urls.values())
        seen.append((fast, balanced, frugal))
        return after_s < PARTED_S_MAX

    def are_parted() -> bool:
        fast, balanced, frugal = seen[-1] if seen else (0, 0, 0)
        return fast >= FILES_MIN and fast >= 2 * balanced >= 4 * frugal > 0

    await asyncio.gather(
        *(committing(tmp_path / profile, url, profile, goes_on) for profile, url in urls.items())
    )
    assert are_parted(), seen[-1]


@pytest.mark.alone
async def test_fast_keeps_its_lag(tmp_path: Path) -> None:
    """In the best of three windows, as others may want the machine."""
    found: list[tuple[float, float, float]] = []
    for window in range(WINDOWS):
        folder = tmp_path / f"{window}"
        url = f"file://{folder}-replica"
        late = await committing(folder, url, ReplicaProfile.FAST, lambda after_s: after_s < BUSY_S)
        p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
        found.append((p50, p99, os.getloadavg()[0]))
        # a busy machine holds some up; those of the next profile would be late by its own pace
        is_kept = p50 <= PACES[ReplicaProfile.FAST].lag_max_s
        if is_kept and p99 <= PACES[ReplicaProfile.BALANCED].lag_max_s:
            return
    pytest.fail(f"p50 and p99 of the lag in s, and the load: {found}")


@pytest.mark.slow
@pytest.mark.alone
async def test_fast_keeps_its_p99_at_300_results_a_second(tmp_path: Path) -> None:
    """In the best of three windows, as others may want the machine. A profile that is too slow by
    itself is so in each: with an interval of 2 s p99 is 2.9 s.
    """
    found: list[tuple[float, float]] = []
    for window in range(WINDOWS):
        folder = tmp_path / f"{window}"
        url = f"file://{folder}-replica"
        late = await committing(
            folder, url, ReplicaProfile.FAST, lambda after_s: after_s < WINDOW_S, results=15
        )
        assert len(late) >= WINDOW_S * 20 / 2, "it was to commit 20 times a second"
        found.append((percentile(late, 0.99), os.getloadavg()[0]))
        if found[-1][0] <= PACES[ReplicaProfile.FAST].lag_max_s:
            return
    pytest.fail(f"p99 of the lag in s, and the load: {found}")
