"""Daemons that are loaded in turns: who has no turn is stopped, with all that it has started.

So nothing that one has left over is done in the other's time, and what it has left over is done in
its own next turn, which counts from its first moment on.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from support.processes import children

from edge_store.bench.clients import Clients, Load, Slice
from edge_store.bench.commits import commit_figures
from edge_store.bench.figures import cpu_seconds
from edge_store.bench.served import Served

__all__ = ["Box", "Window"]


class Window(NamedTuple):
    """One turn. CPU in µs a result, COMMITs of the daemon's own histogram."""

    slice: Slice
    daemon_us: float
    litestream_us: float
    store_us: float
    commits: float
    over_100_ms: float
    over_1_s: float


class Box:
    """A daemon with all that it has started, and the store that only it uses."""

    def __init__(self, served: Served, store: Callable[[], int | None]) -> None:
        self.served = served
        self._store = store

    def _processes(self) -> list[int]:
        """The daemon first, then its children, then the store."""
        found = [self.served.pid, *children(self.served.pid)]
        return found + [each for each in (self._store(),) if each is not None]

    def stop(self) -> None:
        """It does nothing more."""
        for each in self._processes():
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGSTOP)

    def go_on(self) -> None:
        """It goes on where it was."""
        for each in reversed(self._processes()):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)

    def cpu_seconds(self) -> tuple[float, float, float]:
        """Of the daemon, of its Litestream, and of the store, so far."""
        litestream = [each for each in children(self.served.pid) if name_of(each) == "litestream"]
        store = self._store()
        return (
            cpu_seconds(self.served.pid),
            sum(map(cpu_seconds, litestream)),
            cpu_seconds(store) if store is not None else 0.0,
        )

    async def window(self, clients: Clients, load: Load, seconds: float) -> Window:
        """Its turn: all of it counts, from the moment it goes on."""
        self.go_on()
        before, commits = self.cpu_seconds(), commits_of(self.served.port)
        found, answered = await clients.slice(
            self.served.pid, self.served.port, load, seconds, ramp_s=0.0
        )
        spent = [now - then for now, then in zip(self.cpu_seconds(), before, strict=True)]
        made = [now - then for now, then in zip(commits_of(self.served.port), commits, strict=True)]
        daemon_us, litestream_us, store_us = (1e6 * each / len(answered) for each in spent)
        return Window(found, daemon_us, litestream_us, store_us, *made)


def name_of(process_id: int) -> str:
    """Of its program; empty when it has ended."""
    try:
        return Path(f"/proc/{process_id}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def commits_of(port: int) -> tuple[float, float, float]:
    """COMMITs so far, and those of over 100 ms and over 1 s."""
    figures = commit_figures(port)
    assert [figure.unit for figure in figures[:3]] == ["COMMITs"] * 3
    return figures[0].value, figures[1].value, figures[2].value
