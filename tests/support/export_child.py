"""A command whose steps are small: ``export_child.py ARGUMENTS``, to be killed anywhere.

``HELD_AT``: before this page or batch it makes the file ``HELD`` and goes no further, so that it is
not over before who kills it has come to that.
"""

import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from edge_store.cli import main
from edge_store.exports import files, pages, parquet
from edge_store.imports import batches
from edge_store.recorder.intake import Take

pages.RESULTS_PER_PAGE = 16
files.MARK_S = 0.0
parquet.ROWS_PER_PART = 32
batches.ROWS_PER_BATCH = 16

HELD_AT = int(os.environ.get("HELD_AT", "0"))
steps = count(1)
read_pages = pages.Source.pages


def step() -> None:
    if next(steps) == HELD_AT:
        Path(os.environ["HELD"]).touch()
        time.sleep(3600)


def pages_with_steps(*args: Any) -> Iterator[Any]:
    for page in read_pages(*args):
        step()
        yield page


def take_with_steps(**fields: Any) -> Any:
    step()
    return Take(**fields)


for room, name, made in (
    (pages.Source, "pages", pages_with_steps),
    (batches, "Take", take_with_steps),
):
    setattr(room, name, made)

sys.argv[0] = "edge-store"
main()
