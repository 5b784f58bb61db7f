"""A fleet: boxes with real databases and real replicas, what happens to them, and what is true.

Chances come from a seed, ids from the clock. A box writes results of all kinds, forgets, lets some
expire, is set up anew, restored from an earlier point, or its replica is begun anew; its clock may
be wrong. Litestream replicates all boxes at once and ends; then each head is put, and what the box
holds, every column of every row of every table, is its newest truth. Files can be damaged.
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self
from unittest import mock

from support.records import make_result
from support.replicating import Database

from edge_store.errors import SchemaTooNew
from edge_store.forget.carry import forget_everywhere
from edge_store.ids import Uuid7
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.recorder.transactions import in_transaction
from edge_store.replica.bucket import shared_buckets
from edge_store.replica.heads import Heads, read_head
from edge_store.replica.litestream import child_environment, find_litestream
from edge_store.replica.location import parse_location, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.points import LtxFile, list_files, read_points
from edge_store.replica.restore import restore
from edge_store.result import Content, Output, Record, Status
from edge_store.schema import SCHEMA_VERSION
from edge_store.sqlite import open_reader

__all__ = ["Box", "Fleet", "Truth", "result_rows", "truth_of"]

TEXTS = ("", "plain", "über\0null", "🎲" * 40, '{"a": [1, 2.5, null]}', "x" * 5000)
DAMAGES = ("flipped", "cut", "missing", "empty")
MERGE_S = 1.0  # of level 1, while merging
DEADLINE_S = 60.0


class Truth(Record, frozen=True, kw_only=True):
    """Every table but Litestream's, with all its rows, sorted; by id each result with its outputs
    and content; and the ids of what was declared deleted.
    """

    tables: dict[str, list[tuple[Any, ...]]]
    schema: int
    results: dict[str, tuple[Any, ...]]
    forgotten: frozenset[str]
    expired: frozenset[str]  # or their content


def truth_of(path: Path) -> Truth:
    """What a database holds."""
    with closing(open_reader(path)) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' "
            "AND name NOT GLOB '_litestream_*'"
        ).fetchall()
        tables = {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)
            for (name,) in names
        }
        gone = connection.execute("SELECT reason, id FROM deletions").fetchall()
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
    return Truth(
        tables=tables,
        schema=schema,
        results=result_rows(path),
        forgotten=frozenset(name for reason, name in gone if reason == "forget"),
        expired=frozenset(name for reason, name in gone if reason == "retention"),
    )


def result_rows(path: Path) -> dict[str, tuple[Any, ...]]:
    """By id: the columns of the result, of its outputs, and of its content."""
    with closing(open_reader(path)) as connection:
        found: dict[int, list[Any]] = {}
        for table in ("results", "outputs", "requests"):
            for row in connection.execute(f"SELECT seq, * FROM {table} ORDER BY 1, 3"):
                found.setdefault(row[0], []).append(row[1:])
        ids = connection.execute("SELECT seq, id FROM results").fetchall()
    return {name: tuple(found[seq]) for seq, name in ids}


class Box(Database):
    """One box. ``published``: its truths, oldest first, as they were when its head was put; with
    each the replica's position. ``is_damaged``: files of its replica are, which it does not know.
    ``begins_anew``: the next snapshot is all that its replica needs. ``is_merged``: what is merged
    is not here any more.
    """

    def __init__(self, folder: Path, device_id: str, *, skew_s: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.skew_s = skew_s
        self._ids = Uuid7()  # as its clock goes; others in this process go by ours
        self.published: list[tuple[int, Truth]] = []
        self.is_damaged = False
        self.begins_anew = False
        self.is_merged = False
        self._lives = 0
        with self._clock():
            super().__init__(folder / "results.db", device_id)

    @property
    def meta(self) -> Path:
        """Litestream's folder of this life."""
        return self.folder / f"litestream-{self._lives}"

    def live(self, results: int, chances: random.Random) -> None:
        """Commit so many results of all kinds."""
        batch = []
        for _ in range(results):
            self._admitted += 1
            outputs = tuple(
                Output(choice_index=n, output_text=chances.choice(TEXTS), finish_reason="stop")
                for n in range(chances.randrange(3))
            )
            content = Content(
                input_text=chances.choice((None, *TEXTS)),
                request_body=chances.randbytes(chances.randrange(300)),
                response_body=chances.randbytes(chances.randrange(6000)),
            )
            batch.append(
                make_result(
                    self._admitted, self.boot.boot_id, device_id=self.device_id,
                    outputs=outputs, content=content, status=chances.choice(list(Status)),
                    latency_ms=chances.random() * 1e4, stream=chances.random() < 0.5,
                    output_tokens=chances.choice((None, 0, 2**40)),
                    metadata=chances.choice((None, json.dumps({"k": chances.choice(TEXTS)}))),
                    user_id=chances.choice((None, "someone")),
                )
            )  # fmt: skip
        with self._clock():
            self._commit(batch)

    def forget(self, results: int, chances: random.Random) -> None:
        """As ``edge-store forget`` does."""
        names = [name for _, name in self._some(results, chances)]
        with self._clock():
            in_transaction(self.connection, forget_everywhere, names)

    def expire(self, results: int, chances: random.Random) -> None:
        """As retention does, results or content."""
        seqs = [seq for seq, _ in self._some(results, chances)]
        what = chances.choice(list(What))
        if what is What.CONTENT:
            here = {seq for (seq,) in self.connection.execute("SELECT seq FROM requests")}
            seqs = [seq for seq in seqs if seq in here]
        with self._clock():
            delete_results(self.connection, seqs, Reason.RETENTION, what)

    def begin_again(self, database: Path | None = None) -> None:
        """Set up anew, with nothing or from ``database``, under the same id, on the same path."""
        self.connection.close()
        for path in self.folder.glob("results.db*"):
            path.unlink()
        if database is not None:
            shutil.move(database, self.path)
        with self._clock():
            super().__init__(self.path, self.device_id)
        self.forget_replica()

    def upgrade(self) -> None:
        """Have the schema of a later edge-store, which adds a table and a column, for good."""
        if not self.is_newer:
            self.connection.execute("CREATE TABLE later (at INTEGER) STRICT")
            self.connection.execute("INSERT INTO later VALUES (1)")
            self.connection.execute("ALTER TABLE results ADD COLUMN later TEXT DEFAULT 'x'")
            self.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    @property
    def is_newer(self) -> bool:
        """Whether only a later edge-store could open it again."""
        return bool(self.connection.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION)

    def restart(self) -> None:
        """Another boot, on the same database."""
        if self.is_newer:
            return
        self.connection.close()
        with self._clock():
            super().__init__(self.path, self.device_id)

    def forget_replica(self) -> None:
        """Let Litestream look where its replica is, and upload everything behind that."""
        self._lives += 1
        self.begins_anew, self.is_merged = True, False
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _some(self, results: int, chances: random.Random) -> list[tuple[int, str]]:
        here = self.connection.execute("SELECT seq, id FROM results ORDER BY seq").fetchall()
        return chances.sample(here, min(results, len(here)))

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """The box's: whatever is read of it here is off by so much."""
        right = time.time_ns
        off_ns = round(self.skew_s * 1e9)
        with (
            mock.patch("time.time_ns", side_effect=lambda: right() + off_ns),
            mock.patch("edge_store.ids._uuid7", self._ids),
        ):
            yield


class Fleet:
    """``stored``: the folder in which, however deep, the store keeps its files. Unless it
    ``keeps_truth``, nothing is kept of what was told, as where thousands of boxes are measured.
    """

    def __init__(
        self, folder: Path, url: str, stored: Path, seed: int, *, keeps_truth: bool = True
    ) -> None:
        self._keeps_truth = keeps_truth
        self.url = url
        self.boxes: dict[str, Box] = {}
        self.chances = random.Random(seed)
        self._folder = folder
        self._stored = stored
        self._location = parse_location(url)
        self._credentials = read_credentials(self._location)
        self._program = str(find_litestream().path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for box in self.boxes.values():
            box.connection.close()

    def add(self, name: str, *, skew_s: float = 0.0) -> Box:
        box = self.boxes[name] = Box(self._folder / name, name, skew_s=skew_s)
        return box

    async def replicate(self, names: Iterable[str] = (), *, snapshot: bool = False) -> None:
        """Have these boxes, or all, replicated; put their heads; and keep their truths."""
        chosen = [self.boxes[name] for name in names or self.boxes]
        for box in chosen:
            if box.is_merged and box.is_damaged:  # and mends a lost file only while it has it here
                box.forget_replica()
            if box.begins_anew and box.is_damaged:  # Litestream goes on from no damaged file
                self._empty(box)
        snapshot |= any(box.begins_anew for box in chosen)
        more = ("-force-snapshot", "-enforce-retention") if snapshot else ()
        await self._litestream(chosen, "-once", *more)
        with shared_buckets():
            for box in chosen:
                box.is_damaged &= not box.begins_anew
                box.begins_anew = False
                await self.tell(box)

    async def tell(self, box: Box) -> None:
        """Put its head, as of everything that it has committed."""
        txid = max(int(path.stem[17:], 16) for path in box.meta.rglob("*.ltx"))
        (seq,) = box.connection.execute("SELECT coalesce(max(seq), 0) FROM results").fetchone()
        head, _ = read_head(box.connection, box.boot, txid, seq)
        await Heads(Objects(self._location, self._credentials), box.device_id).write(head)
        if self._keeps_truth:
            box.published.append((txid, truth_of(box.path)))

    async def merge(self, names: Iterable[str] = (), *, keep: bool = False) -> None:
        """Let Litestream merge what these boxes have replicated, and remove what is merged, unless
        that is to be kept.
        """
        chosen = [self.boxes[name] for name in names or self.boxes]
        config = self._config(chosen, l0_retention="1h" if keep else "10ms")
        process = await asyncio.create_subprocess_exec(
            self._program, "replicate", "-config", str(config),
            env=child_environment(self._credentials), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ends_at = time.monotonic() + DEADLINE_S
        try:
            while not all(self._is_merged(box, keep=keep) for box in chosen):
                assert time.monotonic() < ends_at, "nothing was merged"
                await asyncio.sleep(0.1)
        finally:
            process.terminate()
            await process.wait()
        for box in chosen:
            box.is_merged = True
            await self.tell(box)

    def _is_merged(self, box: Box, *, keep: bool) -> bool:
        """Whether nothing of level 0 is left but the newest."""
        levels = [int(path.parent.name, 16) for path in self.files(box)]
        return any(0 < level < 9 for level in levels) and (keep or levels.count(0) <= 1)

    async def go_back(self, box: Box) -> None:
        """Restore it from a point of its replica, as an operator would who lost the machine."""
        files = await list_files(self._location, self._credentials, box.device_id)
        told = {txid for txid, truth in box.published if truth.schema == SCHEMA_VERSION}
        points = read_points(files, box.device_id).points
        earlier = [point.txid for point in points if point.txid in told]
        if not earlier:
            return
        to = self._folder / f"{box.device_id}.restored.db"
        try:
            await restore(
                self._location, box.device_id, to,
                timeout_s=DEADLINE_S, at=self.chances.choice(earlier), new_timeline=True,
            )  # fmt: skip
        except SchemaTooNew:  # a position from before its replica was lost, and another state now
            return
        box.begin_again(to)

    def begin_replica_anew(self, box: Box) -> None:
        """As if the store had lost it: nothing is there, and positions count from 1 again."""
        self._empty(box)
        box.forget_replica()
        box.is_damaged = True

    def _empty(self, box: Box) -> None:
        for level in {path.parent for path in self.files(box)}:
            shutil.rmtree(level)

    def damage(self, box: Box, kind: str | None = None) -> None:
        """Do that to one of the newest files of its replica."""
        newest = sorted(self.files(box), key=lambda each: each.stem[17:])[-3:]
        if not newest:
            return
        file = self.chances.choice(newest)
        content = bytearray(file.read_bytes() or b"empty")
        match kind or self.chances.choice(DAMAGES):
            case "flipped":
                content[self.chances.randrange(len(content))] ^= 1 << self.chances.randrange(8)
            case "cut":
                del content[self.chances.randrange(len(content)) :]
            case "empty":
                content.clear()
            case "missing":
                file.unlink()
                box.is_damaged = True
                return
        file.write_bytes(content)
        box.is_damaged = True

    def files(self, box: Box) -> list[Path]:
        """Those of its replica."""
        return [
            path
            for path in self._stored.rglob(f"{box.device_id}/results.db/**/*.ltx")
            if not path.name.startswith(".")
        ]

    async def listed(self, box: Box) -> list[LtxFile]:
        """The same as the store lists them."""
        return await list_files(self._location, self._credentials, box.device_id)

    async def _litestream(self, boxes: list[Box], *more: str) -> None:
        config = self._config(boxes)
        process = await asyncio.create_subprocess_exec(
            self._program, "replicate", "-config", str(config), *more,
            env=child_environment(self._credentials), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, said[-1000:]

    def _config(self, boxes: list[Box], l0_retention: str = "1h") -> Path:
        config = self._folder / f"litestream-{os.getpid()}.yml"
        content = {
            "levels": [{"interval": f"{MERGE_S}s"}],
            "l0-retention": l0_retention,
            "l0-retention-check-interval": "500ms",
            "snapshot": {"interval": "24h", "retention": "1ms"},
            "dbs": [
                {
                    "path": str(box.path),
                    "meta-path": str(box.meta),
                    "monitor-interval": "100ms",
                    "replica": self._location.litestream_replica(box.device_id),
                }
                for box in boxes
            ],
        }
        config.write_text(json.dumps(content))
        return config
