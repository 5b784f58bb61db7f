"""A box, its store, and rounds of load, faults and restores on them."""

import json
import math
import multiprocessing
import os
import random
import subprocess
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from support.daemon import Box, DaemonProcess, rows, until
from support.flakyproxy import FlakyProxy
from support.s3server import S3Server
from support.soak.callers import Callers
from support.soak.faults import BOX_FAULTS, STORE_FAULTS, may_mount
from support.soak.restored import Found, Wanted, check

__all__ = ["BadRestore", "Skipped", "Soak"]

CONNECTIONS = 16
LOAD_S = (1.0, 2.5)
CALM_S = 0.7  # between the end of a fault and the restores of the newest state
CATCH_UP_S = 180.0
START_S = 120.0
ROUNDS_PER_BOX = (4, 5, 10)  # a restore reads the whole file: it must not grow for ever
DISK = "512m"
CONTROL = Path(__file__).with_name("control")
DEVICE = "box-1"
DAMAGE = {65, 66, 76, 78}  # exit statuses that nothing may end with

SETTINGS = {
    "REPLICA__ENABLED": "true",
    "REPLICA__MONITOR_INTERVAL_S": "0.5",
    "REPLICA__OWNER_CHECK_S": "2",
    "REPLICA__STOP_TIMEOUT_S": "4",
    "STORE__WAL_BYTES_MAX": str(1 << 20),
}


class BadRestore(AssertionError):
    """One that is not what was replicated."""


class Skipped(AssertionError):
    """The daemon says that Litestream lacks commits."""


class Soak:
    """``totals`` counts what was done and seen. A round that finds something bad raises:
    ``BadRestore`` where it is a restore, ``Skipped`` where the daemon has found it.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        rate: float,
        *,
        says: bool = False,
        is_control: bool = False,
        rounds_per_box: int | None = None,
    ) -> None:
        self.folder = folder / "disk"  # the box's own file system, where one may be mounted
        self.random = random.Random(seed)
        self.totals: Counter[str] = Counter()
        self.rounds = 0
        self.catch_up_s: list[float] = []
        self.commits = self.most_commits = 0  # in all, and in one second
        self.box: Box
        self.daemon: DaemonProcess
        self.server: S3Server
        self.proxy: FlakyProxy
        self.callers = Callers(CONNECTIONS, rate)
        self._base = folder
        self._says = says
        self._is_control = is_control
        self._rounds_per_box = (rounds_per_box,) if rounds_per_box else ROUNDS_PER_BOX
        self._boxes = self._rounds_left = 0
        self._is_served = False
        self._disk_is_small = False
        self._began_at = 0.0
        self._stack = ExitStack()
        self._of_box = ExitStack()
        self._left: tuple[str, ...] = ()  # faults that this box has not had

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            context = multiprocessing.get_context("spawn")
            self._pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=context))
            stack.enter_context(self.callers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._leave_box(is_well=exc is None)
        finally:
            self._stack.close()

    def run(self, restores: int) -> None:
        """Rounds, until so many restores were good.

        Raises:
            AssertionError: one was not, or another promise was broken.
        """
        while self.totals["restores"] < restores:
            if self._rounds_left == 0:
                self._leave_box()
                self._new_box()
                self._rounds_left = self.random.choice(self._rounds_per_box)
            self._rounds_left -= 1
            self._round()

    def _new_box(self) -> None:
        self._boxes += 1
        self.callers.begin_anew()
        base = self._base / f"{self._boxes}"
        self.folder = base / "disk"
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            self._disk_is_small = may_mount(self.folder, DISK)
            if self._disk_is_small:
                stack.callback(subprocess.run, ["umount", "--lazy", str(self.folder)], check=True)
            self.server = stack.enter_context(S3Server(base / "s3"))
            os.environ.update(self.server.environ)
            self.proxy = stack.enter_context(FlakyProxy(self.server.port))
            reserve = self.random.choice((0, 4 << 20))
            self.box = Box.init(
                self.folder / "box",
                *("--engine", "demo", "--device-id", DEVICE),
                REPLICA__URL=self._url(self.proxy.port),
                STORE__DISK_RESERVE_BYTES=str(reserve),
                **SETTINGS,
            )
            self.box.environ.update(self.server.environ)
            if self._is_control:
                self.box.environ["PYTHONPATH"] = f"{CONTROL}:{self.box.environ['PYTHONPATH']}"
            self.box.deadline_s = START_S
            self._of_box = stack.pop_all()
        self._began_at = math.inf
        self.serve()
        self.load_for(0.5, 0.5)
        self._catch_up()
        self._began_at = time.time()

    def _count_commits(self) -> None:
        found = rows(self.box.database, "SELECT count(*) FROM commits GROUP BY at / 1000")
        self.commits += sum(count for (count,) in found)
        self.most_commits = max(self.most_commits, *(count for (count,) in found))

    def _url(self, port: int) -> str:
        return self.server.url("fleet").replace(str(self.server.port), str(port))

    def _leave_box(self, *, is_well: bool = True) -> None:
        self.callers.port = None
        if self._is_served:
            if is_well:
                self.terminate()
            else:
                self._end_daemon()
        if is_well:
            if self._boxes:
                self._count_commits()
            self._of_box.close()  # else the files are the evidence
        elif self._boxes:
            self.proxy.__exit__(None, None, None)
            self.server.stop()

    # What faults do with the daemon.

    def serve(self, **settings: str) -> None:
        """Start it, and wait until it answers; again when it does not stay up."""
        ends_at = time.monotonic() + CATCH_UP_S
        while True:
            self.start(**settings)
            try:
                self.daemon.wait_ready(START_S)
            except AssertionError:
                assert time.monotonic() < ends_at, self.daemon.output()
                if self.daemon.exit_code is None:
                    raise
                self.totals["starts that failed"] += 1
                self._end_daemon()
                self._require_room()
                time.sleep(0.2)
                continue
            self.callers.port = int(self.daemon.url.rpartition(":")[2])
            return

    def _require_room(self) -> None:
        """A start on a full disk may fail: then whoever is called makes room."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def start(self, **settings: str) -> None:
        """Start it, and wait for nothing."""
        self.daemon = self.box.serve(**settings)
        self.daemon.start()
        self._is_served = True
        self.totals["starts"] += 1

    def ensure_served(self, **settings: str) -> None:
        """As a service manager does."""
        if self._is_served and self.daemon.exit_code is not None:
            self.totals[f"ended with {self.daemon.exit_code}"] += 1
            self._end_daemon()
        if not self._is_served:
            self.serve(**settings)

    def kill(self) -> None:
        """SIGKILL."""
        self.daemon.kill()
        self.totals["daemons killed"] += 1
        self._end_daemon()

    def terminate(self) -> None:
        """SIGTERM, and wait."""
        if self.daemon.exit_code is None:
            self.daemon.terminate()
            self.daemon.wait(START_S)
            self.totals["daemons terminated"] += 1
        self._end_daemon()

    def _end_daemon(self) -> None:
        self.callers.port = None
        self._is_served = False
        self.daemon.end()
        assert self.daemon.tracebacks() == [], self._told()
        assert self.daemon.exit_code not in DAMAGE, self._told()

    def _told(self) -> Path:
        """A file with what this daemon has said but of each result."""
        told = self._base / "daemon.log"
        lines = [line for line in self.daemon.log if line.get("event") != "result_committed"]
        told.write_text("\n".join([*map(json.dumps, lines), *self.daemon.raw]) + "\n")
        return told

    def litestreams(self) -> int:
        """How many were started by this daemon."""
        return sum(line.get("event") == "litestream_started" for line in self.daemon.log)

    def load_for(self, least_s: float, most_s: float) -> None:
        """Requests for so long."""
        self.callers.ask()
        time.sleep(self.random.uniform(least_s, most_s))

    def sleep(self, least_s: float, most_s: float) -> None:
        time.sleep(self.random.uniform(least_s, most_s))

    # A round.

    def _round(self) -> None:
        self.rounds += 1
        store, box = self._choose()
        self._say(f"round {self.rounds}: {store or 'no fault of the store'}, {box or 'none else'}")
        before, began_at = self.callers.totals["acknowledged"], time.time()
        with (
            STORE_FAULTS[store](self) if store else nullcontext(),
            BOX_FAULTS[box](self) if box else nullcontext(),
        ):
            self.load_for(*LOAD_S)
            if self.server.is_up:
                said = self.callers.confirmed_by(time.time())
                self._judge([self._restoring(said)])
        self.ensure_served()
        self.load_for(CALM_S, CALM_S)
        newest = self._catch_up()
        moments = (
            self.random.uniform(self._began_at, time.time()),
            self.random.uniform(self._began_at, time.time()),
            self.random.uniform(began_at, time.time()),
        )
        self._judge(
            [
                self._restoring(newest, is_newest=True),
                *(self._restoring(self.callers.confirmed_by(at), at=at) for at in moments),
                self._restoring(0, place=self.random.random()),
                self._restoring(0, place=self.random.random()),
            ]
        )
        self.totals[f"with {store}"] += bool(store)
        self.totals[f"with {box}"] += bool(box)
        self._say(f"  {self.callers.totals['acknowledged'] - before} acknowledged")

    def _choose(self) -> tuple[str | None, str | None]:
        """A fault of the store, of the box, or of both: each once, before one comes again."""
        if not self._left:
            names = [*STORE_FAULTS, *(name for name in BOX_FAULTS if self._may(name))]
            self.random.shuffle(names)
            self._left = tuple(names)
        first, *left = self._left
        second = self.random.choice((None, None, *self._left))
        chosen = {first, second}
        store = next((name for name in STORE_FAULTS if name in chosen), None)
        box = next((name for name in BOX_FAULTS if name in chosen), None)
        self._left = tuple(name for name in left if name not in (store, box))
        if first not in (store, box):  # both are of one kind
            self._left = (*self._left, first)
        return store, box

    def _may(self, name: str) -> bool:
        return name != "disk full" or self._disk_is_small

    def _restoring(
        self,
        seq: int,
        *,
        at: float | None = None,
        place: float | None = None,
        is_newest: bool = False,
    ) -> tuple[float | None, int, "Future[Found]"]:
        """What was acknowledged up to ``seq`` must be there."""
        acknowledged = self.callers.acknowledged.copy()  # in one step: the callers go on
        there = {number: each.id for number, each in acknowledged.items() if number <= seq}
        forgotten = self.callers.forgotten
        gone = frozenset(each.id for each in acknowledged.values() if each.user in forgotten)
        wanted = Wanted(
            url=self._url(self.server.port),
            device_id=DEVICE,
            database=self.box.database,
            folder=self._base,
            acknowledged=there,
            at=at,
            place=place,
            absent=gone if is_newest else frozenset(),
        )
        return at, seq, self._pool.submit(check, wanted)

    def _judge(self, restores: list[tuple[float | None, int, "Future[Found]"]]) -> None:
        for at, seq, future in restores:
            found = future.result()
            if found.faults:
                raise BadRestore(f"{at=}, {seq=}, {found.faults}; {self._told()}")
            self.totals["restores"] += 1
            self.totals["results in them"] += found.results
            self._say(
                f"  restored {found.results} results{f' of {at:.1f}' if at else ''} in "
                f"{found.seconds:.1f} s; {seq} were said to be there"
            )

    def _catch_up(self) -> int:
        """Until all that was acknowledged is said to be in the replica. Returns up to which seq."""
        self.callers.rest()
        self._require_none_skipped()
        began = time.monotonic()
        newest = self.callers.newest
        try:
            until(
                lambda: self.callers.confirmed_by(math.inf) >= newest,
                f"seq {newest} is replicated",
                CATCH_UP_S,
            )
        except AssertionError as exc:
            self._require_none_skipped()
            raise AssertionError(f"{exc}: {self._told()}") from None
        self._require_none_skipped()
        self.catch_up_s.append(time.monotonic() - began)
        self._say(f"  caught up in {self.catch_up_s[-1]:.1f} s")
        return newest

    def _require_none_skipped(self) -> None:
        said = [line for line in self.daemon.log if line.get("event") == "commits_skipped"]
        if said:
            raise Skipped(f"{said[0]}: {self._told()}")

    def _say(self, text: str) -> None:
        if self._says:
            print(text, flush=True)
