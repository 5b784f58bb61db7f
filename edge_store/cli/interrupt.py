"""Ctrl-C during a query: the exit that every program makes, not an error of the query."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edge_store.errors import EdgeStoreError

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` even where it came up in a function that SQLite had called: there
    the driver makes an error of the query out of it.
    """
    is_pressed = False

    def pressed(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    except EdgeStoreError as exc:
        if is_pressed:
            raise KeyboardInterrupt from exc
        raise
    finally:
        signal.signal(signal.SIGINT, before)
