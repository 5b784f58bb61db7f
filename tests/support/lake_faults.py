"""Work on a lake that is killed: exports, with what is to be forgotten, compactions, vacuums and
expiries. Done again, each leaves what it would have left.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import date
from pathlib import Path

from support.lakes import in_lake
from support.replicating import ROOT, Database

from edge_store.clock import now_ms
from edge_store.fleet.forget import forget_in_all, older_copies
from edge_store.fleet.history import settle
from edge_store.fleet.lake.held import Held
from edge_store.fleet.lake.store import Lake, kept_since
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_reader

__all__ = ["kill_lake_work"]

DAY_MS = 86_400_000
DAYS = 12  # results are of today and so many days before
WORK = ("export", "export", "compact", "vacuum", "expire")
TABLES = ("results", "outputs")


class Centre:
    """One box, its copies, and the lake that they are exported to. ``seen``: by id, the day of each
    result that was ever in a copy.
    """

    def __init__(self, folder: Path, chances: random.Random) -> None:
        self.box = Database(folder / "results.db", "box-a")
        self.folder = folder / "fleet"
        self.folder.mkdir()
        self.lake = Lake(str(folder / "lake"))
        self.seen: dict[str, date] = {}
        self.forgotten: set[str] = set()
        self._copy = self.folder / "box-a.db"
        self._new = folder / "new.db"
        self._chances = chances

    def go_on(self) -> None:
        """The box writes, deletes and forgets, and is pulled before that and after it."""
        for _ in range(2):
            at = now_ms() - self._chances.randrange(DAYS) * DAY_MS
            self.box.write(self._chances.randrange(1, 40), created_at=at)
            self._pull()
            here = [seq for (seq,) in self.box.connection.execute("SELECT seq FROM results")]
            for reason in (Reason.RETENTION, Reason.FORGET):
                chosen = self._chances.sample(here, min(len(here), self._chances.randrange(4)))
                delete_results(self.box.connection, chosen, reason)
            self._pull()

    def _pull(self) -> None:
        self._new.unlink(missing_ok=True)
        self.box.connection.execute("VACUUM INTO ?", (str(self._new),))
        taken = Held(str(self.lake)).taken
        settle(self._copy, self._new, older_copies(self._copy), taken)
        self._new.replace(self._copy)
        forget_in_all(self._copy, older_copies(self._copy))
        with closing(open_reader(self._copy)) as reader:
            days = reader.execute("SELECT id, date(created_at / 1000, 'unixepoch') FROM results")
            self.seen |= {name: date.fromisoformat(day) for name, day in days}
            gone = reader.execute("SELECT id FROM deletions WHERE reason = 'forget'")
            self.forgotten |= {name for (name,) in gone}

    def check(self, *, is_expired: bool = True) -> None:
        """Every result that was seen is there once, but those forgotten or expired; unless
        ``is_expired``, as an expiry was killed after it was noted, those may be there yet.
        """
        for table in TABLES:
            delta = self.lake.open(table)
            since = kept_since(delta) or date.min
            found = delta.to_pyarrow_dataset().to_table(columns=["id"])["id"].to_pylist()
            wanted = {name for name, day in self.seen.items() if day >= since} - self.forgotten
            left = set() if is_expired else {*self.seen} - self.forgotten - wanted
            assert len(found) == len(set(found)), f"{table} has rows twice"
            assert set(found) - left == wanted, f"{table}: {len(found)} rows, not {len(wanted)}"


class KilledWork:
    """See support/lake_child.py."""

    def __init__(self, centre: Centre) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.lake_child", str(centre.folder), str(centre.lake)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "ready"

    def do(self, what: str, number: int, after_us: int = 0) -> tuple[int, int]:
        """Its exit status, and the microseconds that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {number} {after_us}\n")
        self._process.stdin.flush()
        status, took_us = map(int, self._process.stdout.readline().split())
        return status, took_us

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(60)


def kill_lake_work(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill so many, each at a random moment of it; then do it again, export, and look."""
    chances, tally = random.Random(seed), Counter[str]()
    centre = Centre(folder, chances)
    centre.go_on()
    killed = KilledWork(centre)
    most = dict.fromkeys(WORK, 200_000)  # microseconds; known better after one that has ended
    try:
        assert killed.do("export", 0)[0] == 0
        while tally.total() < kills:
            what = chances.choice(WORK)
            number = {"expire": chances.randrange(DAYS // 2, DAYS)}.get(what, 0)
            if what == "export":
                centre.go_on()
            status, _ = killed.do(what, number, chances.randrange(1, most[what]))
            assert status in (0, -signal.SIGKILL), status
            if what != "export":  # which is to be right whatever the one before has left
                centre.go_on()
                assert killed.do("export", 0)[0] == 0
                centre.check(is_expired=what != "expire" or status == 0)
            status_again, took_us = killed.do(what, number)
            assert status_again == 0
            centre.check()
            tally[f"killed in {what}"] += status != 0
            most[what] = max(2000, took_us)
        assert in_lake(centre.lake, "results")
    finally:
        killed.close()
        centre.box.close()
    return tally + Counter()
