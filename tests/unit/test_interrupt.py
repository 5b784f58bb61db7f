"""What is told of Ctrl-C and SIGTERM, and that neither is lost."""

import gc
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable

import click
import pytest

from edge_store import exits
from edge_store.cli.interrupt import Terminated, interruptible
from edge_store.cli.main import ended
from edge_store.errors import QueryRefused

CUTS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


class Left:
    """Calls it when it is no longer needed."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


def in_del(call: Callable[[], object]) -> None:
    Left(call)


def in_a_weak_reference(call: Callable[[], object]) -> None:
    left = Left(int)
    reference = weakref.ref(left, lambda _gone: call())
    del left
    assert reference() is None


def in_a_circle_that_is_collected(call: Callable[[], object]) -> None:
    left = Left(call)
    left.itself = left  # type: ignore[attr-defined]  # which is the circle
    del left
    gc.collect()


@pytest.mark.parametrize(("number", "raised"), CUTS)
@pytest.mark.parametrize("where", [in_del, in_a_weak_reference, in_a_circle_that_is_collected])
def test_a_signal_that_python_drops_ends_long_work_and_short(
    number: int, raised: type[KeyboardInterrupt], where: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def kill() -> None:
        os.kill(os.getpid(), number)

    before, hook = signal.getsignal(number), sys.unraisablehook
    steps = 0

    def work(lasts_s: float) -> None:
        nonlocal steps
        with interruptible():
            where(kill)
            steps += 1
            until = time.monotonic() + lasts_s
            while time.monotonic() < until:
                pass
            if lasts_s:
                pytest.fail("it went on to its end")

    for lasts_s in (0, 60):
        with pytest.raises(KeyboardInterrupt) as told:
            work(lasts_s)
        assert told.type is raised
    assert steps == 2, "else it was not dropped, and this test shows nothing"
    assert (signal.getsignal(number), sys.unraisablehook) == (before, hook)
    assert "ignored" not in capsys.readouterr().err


def test_what_is_cut_once_is_not_cut_again_while_it_tells_of_it() -> None:
    told = []

    def work() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                time.sleep(0.2)
                told.append("how far it came")

    with pytest.raises(Terminated):
        work()
    assert told


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_else_python_drops_is_told_as_before() -> None:
    seen = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda told: seen.append(told.exc_type)
    try:
        with interruptible():
            in_del(lambda: 1 // 0)
    finally:
        sys.unraisablehook = before
    assert seen == [ZeroDivisionError]


def _cut_in_the_query(number: int) -> None:
    """As the driver answers what came up in a function that SQLite had called."""
    with interruptible():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as exc:
            raise QueryRefused("interrupted") from exc


def _cut_in_click(number: int) -> None:
    def command() -> None:
        _cut_in_the_query(number)

    click.Command("command", callback=command).main([], standalone_mode=False)


@pytest.mark.parametrize("cut", [_cut_in_the_query, _cut_in_click])
@pytest.mark.parametrize(
    ("number", "exit_code", "word"),
    [
        (signal.SIGTERM, exits.TERMINATED, "terminated"),
        (signal.SIGINT, exits.INTERRUPTED, "aborted"),
    ],
)
def test_sigterm_is_told_from_ctrl_c_within_click_and_without(
    cut: Callable[[int], None], number: int, exit_code: int, word: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert ended(lambda: cut(number)) == exit_code
    assert capsys.readouterr().err.split() == [word]
