"""Whatever a clock did before it was synced: nothing counts as older than it is; all grows old."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clocks import ClockedBox, Wall
from support.retaining import DAY_MS

from edge_store.clock import now_ms
from edge_store.retention.ages import Ages

YEAR = 365
STEPS = st.one_of(
    st.tuples(st.just("record"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.floats(0, 40)),
    st.tuples(st.just("start_behind"), st.floats(0, 20_000)),  # days; or further: no battery
    st.tuples(st.just("start_synced"), st.just(0)),
    st.tuples(st.just("sync"), st.just(0)),
    st.tuples(st.just("late"), st.just(0)),
)


def follow(box: ClockedBox, wall: Wall, steps: list[tuple[str, float]]) -> None:
    asked: tuple[int, bool] | None = None
    for what, amount in steps:
        match what:
            case "record":
                box.record(int(amount))
            case "wait":
                wall.wait(amount)
            case "start_behind":
                wall.is_synced = False
                wall.off = min(wall.off, -round(amount * DAY_MS))
                box.boot_again(is_clean=int(amount) % 2 == 0)
                asked = None
            case "start_synced":
                wall.sync()
                box.boot_again(is_clean=False)
                asked = None
            case "sync" if not wall.is_synced:
                asked = (now_ms() + 1, False)
                wall.sync()
            case "late" if asked is not None:
                box.commit(asked[0], clock_synced=asked[1])
                asked = None


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
def test_nothing_counts_as_older_than_it_is_and_all_grows_old(
    steps: list[tuple[str, float]],
) -> None:
    with ExitStack() as stack:
        wall = Wall(stack.enter_context(pytest.MonkeyPatch.context()))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        box = ClockedBox(Path(folder), wall)
        stack.callback(box.close)
        box.boot_again(is_clean=False)
        follow(box, wall, steps)
        wall.sync()
        rows = box.connection.execute(
            "SELECT seq, completed_at, clock_synced FROM results ORDER BY seq"
        ).fetchall()
        ages = Ages(box.connection, now_ms(), is_synced=True)
        for seq, at, is_synced in rows:
            assert ages.ended(seq, at, is_synced) >= box.ends[seq] - 2000, (seq, steps)
        box.boot_again()
        wall.wait(1)
        ages = Ages(box.connection, now_ms(), is_synced=True)
        for seq, at, is_synced in rows:
            assert ages.ended(seq, at, is_synced) <= now_ms() - DAY_MS, seq
