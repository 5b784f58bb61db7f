"""SIGKILLs of a real daemon under load, again and again on one folder, and what they may not do.

After each: every answer whose end a caller saw is in the file once and byte for byte, file and
chain are whole, and ``completeness`` adds up to what the callers saw. ``scripts/crashloop`` runs
it for as long as one likes; one test runs it for a minute.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from support.daemon import Box, DaemonProcess, rows
from support.load import Load

from edge_store.chain import verify_chain
from edge_store.sqlite import check_integrity, open_reader

__all__ = ["CrashLoop", "main"]

CONNECTIONS = 16
KILLS_PER_FOLDER = 100  # the checks read the whole file each time: it must not grow for ever
MOMENTS = ("start", "load", "load", "load", "drain")
START_S, LOAD_S, DRAIN_S = 1.0, 0.8, 0.15  # a kill comes so long after it began, at most

SETTINGS = {"ENGINE__DEMO__TOKEN_DELAY_MS": "1", "STORE__WAL_BYTES_MAX": str(1024 * 1024)}


class CrashLoop:
    """Kills on one folder. ``totals`` counts what was seen; a broken promise is an assertion."""

    def __init__(self, folder: Path, moments: random.Random) -> None:
        self.box = Box.init(folder, **SETTINGS)
        self.totals: Counter[str] = Counter()
        self._random = moments
        self._acknowledged: dict[str, bytes] = {}
        self._unchecked: list[Load | None] = []  # what the callers of each newest boot saw
        self._boot_no = 0  # of the newest boot that is checked

    def run(self, kills: int) -> None:
        """Kill so often; then start and stop cleanly, and check the whole history."""
        for _ in range(kills):
            daemon = self.box.serve()
            try:
                self._kill(daemon, self._random.choice(MOMENTS))
            finally:
                daemon.end()
            assert daemon.tracebacks() == [], daemon.output()
        with self.box.serve() as daemon:
            self._check()
            assert daemon.stop() == 0
        self._check_history()

    def _kill(self, daemon: DaemonProcess, moment: str) -> None:
        self.totals[f"killed at {moment}"] += 1
        daemon.start()
        if moment == "start":
            time.sleep(self._random.uniform(0, START_S))
            daemon.kill()
            # at once: it may have left no boot, and the next one's must not be taken for its own
            self._unchecked.append(None)
            self._check()
            return
        self._check()  # while it starts
        daemon.wait_ready()
        with Load(daemon.url, CONNECTIONS, f"{self._boot_no}") as load:
            time.sleep(self._random.uniform(0, LOAD_S))
            if moment == "drain":
                daemon.terminate()
                time.sleep(self._random.uniform(0, DRAIN_S))
            daemon.kill()
        self._unchecked.append(load)

    def _check(self) -> None:
        """What the boot that was killed last has left."""
        for load in self._unchecked:
            assert self._check_file() == ()
            self._check_boot(load)
        self._unchecked.clear()

    def _check_file(self) -> tuple[str, ...]:
        connection = open_reader(self.box.database)
        try:
            connection.execute("BEGIN")
            found = check_integrity(connection)
            assert found == "ok", found
            return verify_chain(connection).faults
        finally:
            connection.close()

    def _check_boot(self, load: Load | None) -> None:
        """The oldest boot that is not checked yet; there is none if it was killed too early."""
        found = rows(
            self.box.database,
            "SELECT boot_no, boot_id, admitted, completed, incomplete + failed + cancelled, "
            "in_flight + interrupted + not_stored + lost FROM completeness "
            "WHERE boot_no > ? ORDER BY boot_no LIMIT 1",
            self._boot_no,
        )
        if load is None and (not found or found[0][2] == 0):
            self._boot_no = found[0][0] if found else self._boot_no
            self.totals["boots without a request"] += 1
            return
        ((self._boot_no, boot_id, admitted, completed, ended, missing),) = found
        assert load is not None
        stored = dict(rows(
            self.box.database,
            "SELECT r.id, q.response_body FROM results AS r JOIN bodies AS q USING (seq) "
            "WHERE r.boot_id = ?",
            boot_id,
        ))  # fmt: skip
        for result_id, seen in load.received.items():
            assert stored.get(result_id, b"").startswith(seen), (result_id, seen)
        numbers = [
            n
            for (n,) in rows(
                self.box.database, "SELECT boot_seq FROM results WHERE boot_id = ?", boot_id
            )
        ]
        assert len(numbers) == len(stored) == completed + ended
        assert set(numbers) <= set(range(1, admitted + 1)), "stored, but not counted as admitted"
        assert missing == admitted - len(numbers) <= CONNECTIONS
        # A caller has one request under way at most: only that can be stored without being seen.
        assert len(load.received) <= completed <= len(load.received) + CONNECTIONS
        self._acknowledged |= load.received
        self.totals["answers seen to their end"] += len(load.received)
        self.totals["stored"] += len(stored)
        self.totals["interrupted or not stored"] += missing

    def _check_history(self) -> None:
        """Nothing that was there after a kill has gone with a later one, or come twice."""
        stored = rows(
            self.box.database, "SELECT r.id, q.response_body FROM results AS r JOIN bodies AS q "
            "USING (seq)"
        )  # fmt: skip
        times = Counter(result_id for result_id, _ in stored)
        assert set(times.values()) <= {1}
        bodies = dict(stored)
        for result_id, seen in self._acknowledged.items():
            assert bodies.get(result_id, b"").startswith(seen), result_id
        (total,) = rows(
            self.box.database,
            "SELECT sum(completed + incomplete + failed + cancelled), sum(in_flight), "
            "sum(admitted - interrupted - not_stored - lost) FROM completeness",
        )
        assert total == (len(stored), 0, len(stored))
        self.box.proven()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/crashloop",
        description="Kill a daemon under load N times with SIGKILL, at its start, under load and "
        "while it drains, restart it on the same folder, and check each time that nothing a "
        "caller saw the end of is missing. A new folder every 100 kills.",
        epilog="scripts/crashloop 50 --seed 7    # the kills come at the same moments again",
    )
    parser.add_argument("kills", nargs="?", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    moments = random.Random(arguments.seed)
    totals: Counter[str] = Counter()
    began = time.monotonic()
    done = 0
    while done < arguments.kills:
        kills = min(KILLS_PER_FOLDER, arguments.kills - done)
        # kept when a check fails: the file is the evidence
        folder = Path(tempfile.mkdtemp(prefix="edge-store-crashloop-"))
        loop = CrashLoop(folder / "box", moments)
        try:
            loop.run(kills)
        except BaseException:
            print(f"FAILED after {done} to {done + kills} kills; the database is kept in {folder}")
            raise
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
        totals += loop.totals
        done += kills
        print(f"{done} kills, {time.monotonic() - began:.0f} s: {dict(totals)}", flush=True)
    print(f"PASSED: {done} kills in {time.monotonic() - began:.0f} s, nothing acknowledged is lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
