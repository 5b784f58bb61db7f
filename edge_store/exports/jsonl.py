"""JSONL: all of each result, one a line (``lines.py``)."""

from functools import partial
from typing import Any

from edge_store.exports.files import FileExport
from edge_store.exports.kinds import Export, Fetched, Job
from edge_store.exports.lines import line_of, recorded_rows
from edge_store.exports.mark import Mark
from edge_store.exports.pages import wanted
from edge_store.sqlite import Connection

__all__ = ["open_export"]


def open_export(job: Job, mark: Mark) -> Export:
    """A file of lines."""

    def encode(row: Any) -> bytes:
        return line_of(*row, bodies=job.bodies)

    return FileExport(job, mark, partial(_fetch, job), encode)


def _fetch(job: Job, connection: Connection, span: dict[str, Any]) -> Fetched:
    statement = wanted("select_export_results", job.selection)
    return recorded_rows(connection, statement, {**span, **job.selection.values})
