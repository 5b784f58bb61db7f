"""Rows on standard output: a table for people, NDJSON for pipes, and what else a person asks for.

Rows are written as they come, so memory stays flat; on a terminal more than a screen of them goes
to a pager, and nothing in them can steer it. What only one format needs is imported with it.
"""

from edge_store.cli.output.options import chosen_format, output_options
from edge_store.cli.output.words import (
    as_json,
    bytes_text,
    harmless,
    json_line,
    span_text,
    time_text,
    write_json,
)
from edge_store.cli.output.writing import Rows, write_rows

__all__ = [
    "Rows",
    "as_json",
    "bytes_text",
    "chosen_format",
    "harmless",
    "json_line",
    "output_options",
    "span_text",
    "time_text",
    "write_json",
    "write_rows",
]
