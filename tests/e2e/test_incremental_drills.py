"""Between full drills the last copy is brought forward, with real Litestream; whatever is odd about
that is told by a full one.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.processes import standing_still
from support.replicating import Database, replicate
from support.s3server import S3Server

from edge_store.replica.compare import read_marks
from edge_store.replica.proof import Job, Kind, Proof, prove
from edge_store.replica.proving import prove_aside
from edge_store.replica.supervisor import Litestream
from edge_store.replica.traffic import NOTHING, Ledger

BOX = "box-1"
COPY, KNOWN = ".drill.kept.db", ".drill.kept.json"
BODY_BYTES = 20_000
SNAPSHOTS = 9  # the level of Litestream's that has them


class Replicated:
    """A box whose Litestream runs."""

    def __init__(self, database: Database, litestream: Litestream, url: str) -> None:
        self.database, self.url = database, url
        self._litestream = litestream
        self.folder = database.path.parent
        self.job = Job(
            url=url,
            device_id=database.device_id,
            database=str(database.path),
            marks=read_marks(database.connection),
            reserve_bytes=0,
            keeps=True,
            full_every_s=3600,
        )

    async def write(self, results: int) -> None:
        """Commit and replicate."""
        self.database.write(results, body_bytes=BODY_BYTES)
        await self._litestream.sync(60)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Litestream stands still: it may merge files at any time, and what is harmed with them."""
        process_id = self._litestream.process_id
        assert process_id is not None
        with standing_still(process_id):
            yield

    async def drill(self, **more: Any) -> Proof:
        job = msgspec.structs.replace(self.job, marks=read_marks(self.database.connection), **more)
        return await prove(job, lambda _step: None)


@asynccontextmanager
async def replicated(folder: Path, url: str) -> AsyncIterator[Replicated]:
    folder.mkdir()  # noqa: ASYNC240  (nothing else waits)
    database = Database(folder / "results.db", BOX)
    async with replicate(database.path, BOX, url, as_served=True) as litestream:
        yield Replicated(database, litestream, url)
    database.close()


async def test_what_is_new_is_read_and_all_of_the_copy_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        async with replicated(tmp_path / "box", s3.url("fleet")) as box:
            await box.write(100)
            first = await box.drill()
            assert (first.kind, first.because, first.fault) == (Kind.FULL, None, None)
            await box.write(1)
            second = await box.drill(bytes_left=first.bytes // 4)
            assert (second.kind, second.because, second.fault) == (Kind.INCREMENTAL, None, None)
            assert (second.rows, second.undecided) == (101, None)
            assert 0 < second.bytes < first.bytes / 4
            assert str(second.txid) > str(first.txid)
            idle = await box.drill()
            assert (idle.kind, idle.rows, idle.bytes) == (Kind.INCREMENTAL, 101, 0)
            waiting = await box.drill(full_every_s=0, bytes_left=1000)
            assert (waiting.kind, waiting.fault) == (Kind.INCREMENTAL, None)
            assert "of replica.bytes_per_day 1000 are left" in str(waiting.overdue)
            assert (await box.drill(full_every_s=0)).kind is Kind.FULL
            assert (await box.drill(is_full=True)).kind is Kind.FULL
            assert (await box.drill()).kind is Kind.INCREMENTAL
            unaffordable = await box.drill(is_full=True, bytes_left=1000)
            assert "replica.bytes_per_day 1000 are left" in str(unaffordable.undecided)
            assert (await box.drill()).kind is Kind.INCREMENTAL
            free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
            assert "are for results" in str((await box.drill(reserve_bytes=2 * free)).undecided)
            await box.drill(keeps=False)
            assert not list(box.folder.glob(".drill*"))
            await require_counted_when_cut(box, first.bytes)


async def require_counted_when_cut(box: Replicated, size: int) -> None:
    ledger = Ledger(box.database.path)

    def count(verb: str, requests: int, size: int) -> None:
        ledger.add_drill(verb, requests, size)
        if verb == "GET":
            cutting.cancel()

    cutting = asyncio.ensure_future(prove_aside(box.job, lambda _step: None, count, idle_s=0))
    with pytest.raises(asyncio.CancelledError):
        await cutting
    ledger.keep(NOTHING)
    ledger = Ledger(box.database.path)
    assert ledger.drilled_bytes >= size
    assert ledger.usage.today.bytes["GET"] == ledger.drilled_bytes
    assert ledger.usage.today.requests["LIST"] >= 1


def newest(folder: Path, level: int) -> Path:
    return max(path for path in files(folder) if int(path.parent.name, 16) == level)


def files(folder: Path) -> list[Path]:
    """Of the replica."""
    return [*(folder / "replica").rglob("*.ltx")]


def begun(folder: Path) -> None:
    """No file is left from which a restore could begin."""
    for path in files(folder):
        if path.name.startswith(f"{1:016x}-"):
            path.unlink()


def holed(folder: Path) -> None:
    for path in files(folder):
        first, last = (int(txid, 16) for txid in path.stem.split("-"))
        if first <= 2 <= last:
            path.unlink()


def rotten(folder: Path) -> None:
    """The first page of each file that holds what is new: there may be a merged one already."""
    last = newest(folder, 0).stem.partition("-")[2]
    for path in files(folder):
        if path.stem.endswith(f"-{last}") and int(path.parent.name, 16) != SNAPSHOTS:
            content = bytearray(path.read_bytes())
            content[120] ^= 1
            path.write_bytes(content)


def written_over(folder: Path) -> None:
    path = newest(folder, SNAPSHOTS)
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def emptied(folder: Path) -> None:
    path = newest(folder, SNAPSHOTS)
    modified_ns = path.stat().st_mtime_ns
    path.write_bytes(b"")
    os.utime(path, ns=(modified_ns, modified_ns))


def changed(folder: Path) -> None:
    """As large, and as old as it was."""
    path = folder / "box" / COPY
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def replaced(folder: Path) -> None:
    path = folder / "box" / COPY
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def known(folder: Path, **what: Any) -> None:
    path = folder / "box" / KNOWN
    path.write_text(json.dumps({**json.loads(path.read_text()), **what}))


ODD: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "a file that is new is rotten": (rotten, "checksum|unpacked", False),
    "its snapshot was written over": (written_over, "written over", False),
    "its snapshot is empty": (emptied, "written over", False),
    "no snapshot is left": (begun, "lacks its first snapshot", False),
    "a file before its position is gone": (holed, "lacks files from TXID", False),
    "the copy was changed": (changed, "somebody has changed", True),
    "the copy is another file": (replaced, "somebody has changed", True),
    "the copy is gone": (lambda folder: (folder / "box" / COPY).unlink(), "nothing is known", True),
    "it is of another place": (lambda folder: known(folder, location="x"), "another replica", True),
    "it is of another box": (lambda folder: known(folder, device_id="x"), "another replica", True),
    "the machine was started": (lambda folder: known(folder, machine_boot="x"), "None", True),
    "the box has another timeline": (lambda folder: known(folder, timeline="x"), "timeline", True),
    "the replica is another": (lambda folder: known(folder, witnesses=[]), "history", True),
    "it is ahead": (lambda folder: known(folder, txid=1 << 40), "no files lead on", True),
}


async def test_whatever_is_odd_is_told_by_a_full_one(tmp_path: Path) -> None:
    async with replicated(tmp_path / "box", f"file://{tmp_path}/replica") as box:
        await box.write(3)
        for what, (harm, words, is_sound) in sorted(ODD.items(), key=lambda odd: not odd[1][2]):
            assert (await box.drill(is_full=True)).fault is None
            await box.write(1)
            with box.unchanged():
                whole = {path: (path.read_bytes(), path.stat()) for path in files(tmp_path)}
                harm(tmp_path)
                proof = await box.drill()
                assert proof.kind is Kind.FULL, (what, proof)
                assert any(each in str(proof.because) for each in words.split("|")), (what, proof)
                assert (proof.fault is None) is is_sound, (what, proof)
                assert (tmp_path / "box" / COPY).exists() is is_sound, what
                for path, (content, state) in whole.items():
                    path.write_bytes(content)
                    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
