"""What callers of a daemon lose to replication, and how late it is while they are served.

Two daemons of the demo engine, one that replicates in a profile to an S3 server on loopback and one
that does not, are loaded in turns: by callers who ask again at once, then by callers who ask at a
steady rate. Who has no turn is stopped (SIGSTOP), with its Litestream and the S3 server: so nothing
that one has left over is done in the other's time, and what its Litestream has left over is done in
its own next turn, which counts from its first moment on. Nothing is waited for and hidden. Last the
steady rate for a while on the one that replicates: the lag, from a COMMIT until the file that holds
it lies in the server's folder.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

from support.lags import arrivals, lags
from support.s3server import BUCKET, S3Server
from support.taking_turns import Box, Window

from edge_store.bench.clients import Clients, Load, Slice, running_clients
from edge_store.bench.figures import lower_bound, median, percentile
from edge_store.bench.order import Mode
from edge_store.bench.served import daemon_of
from edge_store.config import ReplicaProfile
from edge_store.config.profiles import PACES
from edge_store.sqlite import open_reader

__all__ = ["Plan", "measure"]

RATIO_MIN = 0.9
# Of a turn, at full speed and at a steady rate. After 10,000 results Litestream is asked earlier
# than after its interval: at 2,000 a second each 5 s, at 300 a second each 35 s.
FULL_S = {"fast": 5.0, "balanced": 10.0, "frugal": 10.0}
STEADY_S = {"fast": 5.0, "balanced": 10.0, "frugal": 40.0}
LAG_S = {"fast": 60.0, "balanced": 120.0, "frugal": 240.0}
STEADY_CALLERS = 16
YEAR_S = 31_536_000
OWNER_CHECK_S = 5.0
COMMIT_S = 0.05  # from the time that a row of ``commits`` has until its COMMIT has ended
CAUGHT_UP_TIMEOUT_S = 300.0
POLL_S = 0.2
LOG_CHARS = 3000
COMMITS_SQL = "SELECT at FROM commits WHERE seq_from IS NOT NULL AND at BETWEEN ? AND ? ORDER BY at"
NEWEST_SQL = "SELECT max(at) FROM commits WHERE seq_from IS NOT NULL"


class Plan(NamedTuple):
    """How much is measured, in one profile. ``folder``: the replica is one, without a server."""

    profile: ReplicaProfile
    pairs: int
    callers: int
    rate: float
    full_s: float
    steady_s: float
    lag_s: float
    parts: frozenset[str]
    is_folder: bool


@asynccontextmanager
async def boxes(folder: Path, plan: Plan) -> AsyncIterator[tuple[Box, Box, Path]]:
    """One that replicates, one that does not, and the folder in which the replica lies."""
    with S3Server(folder / "s3") as s3:
        os.environ.update(s3.environ)
        replica = folder / "replica" if plan.is_folder else folder / "s3" / BUCKET / "fleet"
        common = {"log.level": "warning"}
        replicated = {
            **common,
            "replica.enabled": True,
            "replica.url": f"file://{replica}" if plan.is_folder else s3.url("fleet"),
            "replica.profile": plan.profile.value,
            # A store without conditions lets who was slow at its claim wait for three times that.
            "replica.owner_check_s": OWNER_CHECK_S,
            "replica.drill_interval_s": YEAR_S,  # what a drill takes is measured by `bench drill`
        }
        async with (
            daemon_of(replicated, folder / "with") as one,
            daemon_of(common, folder / "without") as none,
        ):
            pair = Box(one, lambda: s3.process_id), Box(none, lambda: None)
            try:
                yield (*pair, replica)
            finally:
                for box in pair:
                    box.go_on()  # who is stopped does not end


async def turns(
    pair: tuple[Box, Box], clients: Clients, load: Load, plan: Plan, seconds: float
) -> list[tuple[Window, Window]]:
    """Pairs of windows, with replication and without; which is first changes from pair to pair."""
    found = []
    for box in pair:
        box.stop()
    for number in range(plan.pairs + 1):
        windows: dict[int, Window] = {}
        for place in (0, 1) if number % 2 else (1, 0):
            await asyncio.to_thread(os.sync)  # of what the other's turn has written
            windows[place] = await pair[place].window(clients, load, seconds)
            pair[place].stop()
        one, none = windows[0], windows[1]
        say(
            f"{plan.profile}, {load.name}, {number}: {one.slice.requests_per_s:.0f} and "
            f"{none.slice.requests_per_s:.0f} results/s "
            f"({one.slice.requests_per_s / none.slice.requests_per_s:.3f}); p99 "
            f"{one.slice.p99_ms:.1f} and {none.slice.p99_ms:.1f} ms; CPU {one.daemon_us:.0f} + "
            f"{one.litestream_us:.0f} + {one.store_us:.0f} and {none.daemon_us:.0f} µs; over 100 "
            f"ms {one.over_100_ms:.0f} and {none.over_100_ms:.0f} of {one.commits:.0f} and "
            f"{none.commits:.0f} COMMITs; load {os.getloadavg()[0]:.1f}"
        )
        if number:  # the first pair warms up
            found.append((one, none))
    return found


def both(pairs: Sequence[tuple[Window, Window]], of: Callable[[Window], float]) -> str:
    """Medians, with replication and without."""
    return f"{median([of(one) for one, _ in pairs]):.4g}, {median([of(n) for _, n in pairs]):.4g}"


def slow_commits(pairs: Sequence[tuple[Window, Window]]) -> str:
    """Of those with replication, and of those without."""
    return f"{slow_of([one for one, _ in pairs])}; {slow_of([none for _, none in pairs])}"


def slow_of(windows: Sequence[Window]) -> str:
    """How many COMMITs were over 100 ms and over 1 s, of how many."""
    slow, slower = (sum(w.over_100_ms for w in windows), sum(w.over_1_s for w in windows))
    return f"{slow:.0f} and {slower:.0f} of {sum(w.commits for w in windows):.0f}"


def ratios_of(pairs: Sequence[tuple[Window, Window]], of: Callable[[Slice], float]) -> list[float]:
    """Of each pair, with replication ÷ without."""
    return [of(one.slice) / of(none.slice) for one, none in pairs]


async def full_speed(pair: tuple[Box, Box], clients: Clients, plan: Plan) -> tuple[str, bool]:
    """The row of a table, and whether the bound holds."""
    load = Load(connections=plan.callers, mode=Mode.PLAIN)
    pairs = await turns(pair, clients, load, plan, plan.full_s)
    ratios = ratios_of(pairs, lambda found: found.requests_per_s)
    answers = [sum(each.slice.answers for each in of) for of in zip(*pairs, strict=True)]
    row = (
        f"| `{plan.profile}` | {median(ratios):.3f} | {lower_bound(ratios):.3f} "
        f"| {min(ratios):.2f} to {max(ratios):.2f} | {answers[0] / answers[1]:.3f} "
        f"| {len(pairs)} of {plan.full_s:g} s "
        f"| {both(pairs, lambda window: window.slice.requests_per_s)} "
        f"| {both(pairs, lambda window: window.daemon_us)} "
        f"| {median([one.litestream_us for one, _ in pairs]):.0f} "
        f"| {median([one.store_us for one, _ in pairs]):.0f} "
        f"| {both(pairs, lambda window: window.slice.client_busy)} "
        f"| {slow_commits(pairs)} | {os.getloadavg()[0]:.1f} |"
    )
    return row, median(ratios) >= RATIO_MIN


async def steady_rate(pair: tuple[Box, Box], clients: Clients, plan: Plan) -> str:
    """The row of a table."""
    pairs = await turns(pair, clients, steady_load(plan), plan, plan.steady_s)
    p50s = ratios_of(pairs, lambda found: found.p50_ms)
    p99s = ratios_of(pairs, lambda found: found.p99_ms)
    return (
        f"| `{plan.profile}` | {both(pairs, lambda window: window.slice.p50_ms)} ms "
        f"| {median(p50s):.2f} ({min(p50s):.2f} to {max(p50s):.2f}) "
        f"| {both(pairs, lambda window: window.slice.p99_ms)} ms "
        f"| {median(p99s):.2f} ({min(p99s):.2f} to {max(p99s):.2f}) "
        f"| {len(pairs)} of {plan.steady_s:g} s "
        f"| {both(pairs, lambda window: window.slice.requests_per_s)} "
        f"| {both(pairs, lambda window: window.daemon_us)} "
        f"| {median([one.litestream_us for one, _ in pairs]):.0f} "
        f"| {slow_commits(pairs)} | {os.getloadavg()[0]:.1f} |"
    )


def steady_load(plan: Plan) -> Load:
    return Load(connections=STEADY_CALLERS, mode=Mode.PLAIN, offered_per_s=plan.rate)


async def lag(box: Box, clients: Clients, plan: Plan, replica: Path) -> tuple[str, bool]:
    """The row of a table, and whether the profile's bound holds."""
    bound_s = PACES[plan.profile].lag_max_s
    began = time.time()
    window = await box.window(clients, steady_load(plan), plan.lag_s)
    ended = time.time()
    await caught_up(box, replica)
    with closing(open_reader(box.served.database)) as connection:
        ats = connection.execute(COMMITS_SQL, (int(1000 * began), int(1000 * ended))).fetchall()
    # What is asked for is the end of a COMMIT: it may have been under way as a file was begun.
    ended_at = [at / 1000 + COMMIT_S for (at,) in ats]
    late = [COMMIT_S + each for each in lags(ended_at, arrived(replica))]
    assert late, f"nothing arrived in {replica}"
    row = (
        f"| `{plan.profile}` | ≤ {bound_s:g} s | {percentile(late, 0.5):.2f} s "
        f"| {percentile(late, 0.99):.2f} s | {max(late):.2f} s "
        f"| {window.slice.requests_per_s:.0f} in {len(late) / (ended - began):.0f} COMMITs "
        f"| {window.slice.p50_ms:.1f}, {window.slice.p99_ms:.1f} ms "
        f"| {slow_of([window])} | {plan.lag_s:.0f} s | {os.getloadavg()[0]:.1f} |"
    )
    return row, percentile(late, 0.99) <= bound_s


def arrived(replica: Path) -> list[tuple[float, float]]:
    """Of the one box that replicates there; none before the first."""
    levels = [*replica.glob("*/results.db/0000"), *replica.glob("*/results.db/ltx/0")]
    assert len(levels) <= 1, levels
    return [each for level in levels for each in arrivals(level)]


async def caught_up(box: Box, replica: Path) -> float:
    """Wait until its last result is in the replica; how long that was."""
    began = time.monotonic()
    with closing(open_reader(box.served.database)) as connection:
        (newest,) = connection.execute(NEWEST_SQL).fetchone()
    while max((at for at, _ in arrived(replica)), default=0.0) < newest / 1000 + COMMIT_S:
        assert time.monotonic() < began + CAUGHT_UP_TIMEOUT_S, "the replica has not caught up"
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began


async def measure(folder: Path, plan: Plan) -> bool:
    """All of one profile; rows of tables are printed. Whether the bounds hold."""
    hold = True
    async with boxes(folder, plan) as (one, none, replica), running_clients() as clients:
        if "full" in plan.parts:
            row, is_held = await full_speed((one, none), clients, plan)
            one.go_on()
            print(f"{row} {await caught_up(one, replica):.1f} s |", flush=True)
            hold &= is_held
        if "steady" in plan.parts:
            print(await steady_rate((one, none), clients, plan), flush=True)
        if "lag" in plan.parts:
            none.stop()
            one.go_on()
            await caught_up(one, replica)
            row, is_held = await lag(one, clients, plan, replica)
            print(row, flush=True)
            hold &= is_held
        tell_of(one)
    return hold


def tell_of(box: Box) -> None:
    """How large its results are, and what it has warned of."""
    with closing(open_reader(box.served.database)) as connection:
        (results,) = connection.execute("SELECT count(*) FROM results").fetchone()
    bytes_each = box.served.database.stat().st_size / results
    say(f"{results} results, {bytes_each:.0f} bytes of the database each")
    say(box.served.database.with_name("server.log").read_text(encoding="utf-8")[-LOG_CHARS:])


def say(text: str) -> None:
    """What is under way, beside the rows."""
    print(text, file=sys.stderr, flush=True)


PARTS = {
    "full": """callers who ask again at once, with replication and without: profile, results/s with
    ÷ without (median), its 95 % bound, range, that of all turns together, turns, results/s of
    each, the daemon's CPU of each (µs a result), Litestream's, the S3 server's, the load
    generator's part of one core, COMMITs over 100 ms and over 1 s of each, load average, how long
    the replica took to catch up""",
    "steady": """callers who ask at a rate: profile, p50 of each, ratio, p99 of each, ratio, turns,
    results/s of each, the daemon's CPU of each, Litestream's, slow COMMITs, load average""",
    "lag": """that rate, with replication only: profile, bound, lag p50, p99, most, results/s,
    callers' p50 and p99, slow COMMITs, time, load average""",
}
EXAMPLES = """\
examples:
  scripts/replica-figures serving                   all, 12 pairs each: three quarters of an hour
  scripts/replica-figures serving fast --only full  results/s in `fast`: two and a half minutes

Keep the machine free of other work. Exits 1 when results/s with replication are below 0.9 of those
without, by the median, or the p99 of the lag is over the profile's bound.
"""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse them."""
    parser = argparse.ArgumentParser(
        prog="scripts/replica-figures serving",
        description=(__doc__ or "").partition("\n\n")[2]
        + "\nOne row of a table for each profile and part:\n"
        + "".join(f"\n  {name}: {text}\n" for name, text in PARTS.items()),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    profiles = [profile.value for profile in ReplicaProfile]
    parser.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help=f"{', '.join(profiles)}; all unless named"
    )
    parser.add_argument("--pairs", type=int, default=12, help="of windows (12)")
    parser.add_argument("--only", choices=[*PARTS], action="append", help="this part; repeatable")
    parser.add_argument(
        "--window", type=float, metavar="S", help="of each turn (5; 10 and 40 in the others)"
    )
    parser.add_argument("--lag-seconds", type=float, metavar="S", help="of the part lag")
    parser.add_argument("--rate", type=float, default=300.0, help="results/s, steady (300)")
    parser.add_argument("--callers", type=int, default=64, help="at full speed (64)")
    parser.add_argument(
        "--folder", action="store_true", help="replicate to a folder: no server on these cores"
    )
    found = parser.parse_args(words)
    found.profiles = found.profiles or profiles
    if unknown := set(found.profiles) - set(profiles):
        parser.error(f"no profile: {', '.join(sorted(unknown))}; there are {', '.join(profiles)}")
    if found.pairs < 1:
        parser.error(f"--pairs {found.pairs}: at least 1")
    return found


def main() -> int:
    asked = arguments(sys.argv[1:])
    hold = True
    for profile in asked.profiles:
        plan = Plan(
            profile=ReplicaProfile(profile),
            pairs=asked.pairs,
            callers=asked.callers,
            rate=asked.rate,
            full_s=asked.window or FULL_S[profile],
            steady_s=asked.window or STEADY_S[profile],
            lag_s=asked.lag_seconds or LAG_S[profile],
            parts=frozenset(asked.only or PARTS),
            is_folder=asked.folder,
        )
        with tempfile.TemporaryDirectory(prefix="edge-store-bench-") as name:
            hold &= asyncio.run(measure(Path(name), plan))
    return 0 if hold else 1


if __name__ == "__main__":
    sys.exit(main())
