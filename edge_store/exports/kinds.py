"""What every kind of export is, and where each kind is: one file of this room each."""

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from edge_store.exports.mark import Mark
from edge_store.exports.pages import Page
from edge_store.selection import Selection
from edge_store.sqlite import Connection

__all__ = ["KINDS", "Export", "Fetched", "Job", "Skipped", "opened"]

# name -> module of this room with ``open_export(job, mark) -> Export``
KINDS = {
    "jsonl": "jsonl",
    "csv": "csvfile",
    "parquet": "parquet",
    "openai": "finetuning",
    "sharegpt": "sharegpt",
    "otlp": "otlp",
}

Fetched = Generator[tuple[int, int, Any]]


class Skipped(Exception):
    """A result that this kind of export cannot hold: its message says why, the same for all like
    it.
    """


class Job(NamedTuple):
    """What is to be exported, to a file, a folder or a URL. ``restart`` overwrites what is there.
    ``headers`` go with each request to a URL.
    """

    kind: str
    target: str
    selection: Selection
    bodies: bool = False
    restart: bool = False
    headers: Mapping[str, str] = {}


class Export(Protocol):
    """An export that is open, and nothing in it changed: no other writes there until it is closed.
    ``begin`` comes first; ``write`` takes page after page, and what it took is there for good
    after ``sync``.
    """

    def begin(self) -> None:
        """Cut what lies behind the mark: by now that is on the disk."""

    def fetch(self, connection: Connection, span: dict[str, Any]) -> Fetched:
        """The rows of a span that are wanted, each with its seq and about its bytes."""

    def write(self, page: Page, skipped: Counter[str]) -> int:
        """How many of its rows were written; the reasons for the others are counted."""

    def is_due(self) -> bool:
        """Whether it is time for ``sync``."""

    def sync(self) -> int:
        """The offset up to which it is there for good; 0 where there is none."""

    def close(self) -> None:
        """Nothing more is written."""


def opened(job: Job, mark: Mark) -> Export:
    """Locked, to go on from ``mark``.

    Raises:
        InvalidRequest: there is something else already.
        ConfigError: a package that it takes is not installed.
    """
    module = import_module(f"edge_store.exports.{KINDS[job.kind]}")
    found: Callable[[Job, Mark], Export] = module.open_export
    return found(job, mark)
