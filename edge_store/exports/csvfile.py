"""CSV (RFC 4180, UTF-8): the flat rows, with a header. NULL and an empty text are both empty."""

import csv
import io
from functools import partial
from typing import Any

from edge_store.errors import InvalidRequest
from edge_store.exports.files import FileExport
from edge_store.exports.flat import columns, flat_rows, plain
from edge_store.exports.kinds import Export, Job
from edge_store.exports.mark import Mark

__all__ = ["open_export"]


def open_export(job: Job, mark: Mark) -> Export:
    """A file of rows."""
    if job.bodies:
        raise InvalidRequest(
            "bodies are bytes, which CSV has no place for", hint="--to jsonl or --to parquet"
        )
    return FileExport(job, mark, partial(flat_rows, job), _row, _row(columns()))


def _row(values: Any) -> bytes:
    text = io.StringIO(newline="")
    # with this end each CR and each LF in a value is quoted
    csv.writer(text, lineterminator="\r\n").writerow([plain(value) for value in values])
    return text.getvalue().encode()
