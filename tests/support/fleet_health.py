"""A centre with stores and copies at hand, for what is said of the health of its boxes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from support.replicating import Database

from edge_store.clock import now_ms
from edge_store.fleet.copies import Standing, keep_standing
from edge_store.fleet.find import Place
from edge_store.fleet.heads import DEAD_AFTER_S, LATE_AFTER_S
from edge_store.fleet.health.findings import Bounds, BoxHealth
from edge_store.fleet.health.known import remembering
from edge_store.fleet.health.summary import Counts, Summary
from edge_store.fleet.health.sweep import Look, Sweep, Swept
from edge_store.fleet.registry import Store
from edge_store.ids import BootId, DeviceId
from edge_store.replica.heads import Head, Heads, read_head
from edge_store.replica.location import DATABASE_NAME, parse_location
from edge_store.replica.objects import Objects
from edge_store.replica.points import Txid
from edge_store.replica.refused import Refusal
from edge_store.result import Boot

__all__ = ["DAY", "MINUTE", "NOW", "Centre", "found", "make_copy", "names"]

NOW = 1_800_000_000_000
MINUTE, DAY = 60_000, 86_400_000


def names(box: BoxHealth) -> list[str]:
    """What is wrong with it, the worst first."""
    return [each.name for each in box.findings]


def found(box: BoxHealth, name: str) -> str:
    """What is said of that, which is all that is wrong with it."""
    assert names(box) == [name]
    return box.findings[0].message


def make_copy(folder: Path, device_id: str, results: int, script: str = "") -> tuple[Path, Head]:
    """A box's database after so many commits of one result, and its head by then."""
    database = Database(folder / f"{device_id}.db", device_id)
    for _ in range(results):
        database.write(1)
    database.connection.executescript(script)
    head, _ = read_head(database.connection, database.boot, 7, results)
    database.connection.execute("PRAGMA journal_mode = DELETE")
    database.close()
    return database.path, head


class Centre:
    """Its folder, and two stores that are folders."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "fleet"
        self.folder.mkdir()
        self.others_told: set[str] = set()
        self.unlisted: list[str] = []
        self._stores = {}
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            self._stores[name] = parse_location(f"file://{tmp_path / name}")

    async def put(self, head: Head, store: str = "one") -> None:
        """It gives a sign now, beside its replica."""
        objects = Objects(self._stores[store], None)
        await Heads(objects, head.device_id).write(head)
        self._replica(head.device_id, store).mkdir(parents=True, exist_ok=True)

    def _replica(self, device_id: str, store: str) -> Path:
        return Path(self._stores[store].path) / device_id / DATABASE_NAME

    def remove_replica(self, device_id: str, store: str = "one") -> None:
        """Somebody does."""
        shutil.rmtree(self._replica(device_id, store).parent)

    async def put_head(self, device_id: str, *, seq: int, store: str = "one") -> None:
        """One of a box of no further interest."""
        head = Head(
            device_id=DeviceId(device_id),
            timeline="one",
            txid=seq,
            seq=seq,
            rows=seq,
            deletion_id=0,
            commit_id=seq,
            digest="ab" * 32,
            schema_version=1,
        )
        await self.put(head, store)

    def age(self, device_id: str, by_s: float, store: str = "one") -> None:
        """Its last sign was so much earlier."""
        path = Path(self._stores[store].path) / "heads" / f"{device_id}.json"
        then = path.stat().st_mtime - by_s
        os.utime(path, (then, then))

    async def refuse(self, device_id: str) -> None:
        """A second box under that id gives a sign."""
        boot = Boot(
            boot_id=BootId("another"),
            device_id=DeviceId(device_id),
            timeline="another",
            version="1",
            engine="demo",
            engine_version="1",
            clock_synced=True,
        )
        await Refusal(Objects(self._stores["one"], None), boot).put()

    async def look(
        self,
        *stores: str,
        later_s: float = 0.0,
        chooses: Callable[[DeviceId], bool] = lambda _device_id: True,
        exclude: tuple[str, ...] = (),
        is_telling: bool = False,
    ) -> list[Swept]:
        """Look at both stores, or some, so much later than it is."""
        places = [
            Place(location=store, store=Store(name=name, url=str(store), exclude=exclude))
            for name, store in self._stores.items()
            if name in (stores or self._stores)
        ]
        look = Look(
            places=places,
            folder=self.folder,
            bounds=Bounds(late_after_s=LATE_AFTER_S, dead_after_s=DEAD_AFTER_S),
            now_ms=now_ms() + round(1000 * later_s),
            chooses=chooses,
            is_telling=is_telling,
        )
        with remembering(self.folder) as memory:
            sweep = Sweep(look, memory)
            swept = [each async for each in sweep.boxes()]
        self.others_told, self.unlisted = memory.others_told, [u.store for u in sweep.unlisted]
        return swept

    def pulled(self, copy: Path, store: str = "one") -> None:
        """It lies in the folder, from there."""
        path = copy.rename(self.folder / copy.name)
        standing = Standing(
            location=str(self._stores[store]),
            txid=Txid(1),
            witnesses=(),
            results=1,
            newest_at=None,
            head=None,
            head_version=None,
        )
        keep_standing(path, standing)

    def remove_head(self, device_id: str, store: str = "one") -> None:
        """Somebody does."""
        (Path(self._stores[store].path) / "heads" / f"{device_id}.json").unlink()

    async def summary(self) -> Summary:
        """Look, and count."""
        counts = Counts(now_ms())
        for swept in await self.look():
            counts.add(swept)
        return counts.summary()
