"""The files that a batch ends with, made from its results: one for what was completed, one for the
rest. In the order of the input, a piece at a time.
"""

import asyncio
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from edge_store.queue.files import FileStore, NewFile
from edge_store.queue.input import Limits, lines_of
from edge_store.queue.records import Batch, BatchState
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, translated

__all__ = ["Made", "make_files"]

LINES_PER_READ = 256  # of a thread that others use too

# OpenAI's codes for lines that were not asked
UNASKED = {
    BatchState.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    BatchState.CANCELLED: (
        "batch_cancelled",
        "This request was not executed: the batch was cancelled.",
    ),
}
DELETED = ("result_deleted", "The result of this request was deleted.")
NO_OUTCOME = ("batch_incomplete", "This request has no outcome.")


class Made(NamedTuple):
    """Finished files, not yet published; None where there is nothing to put into one."""

    output: NewFile | None
    errors: NewFile | None
    completed: int
    failed: int

    def discard(self) -> None:
        """Remove what was not published."""
        for file in (self.output, self.errors):
            if file is not None:
                file.discard()


async def make_files(
    batch: Batch, end: BatchState, store: FileStore, reader: DatabaseThread, limits: Limits
) -> Made:
    """Write what a batch ends with; ``end`` says why lines that have no outcome have none.

    Raises:
        OSError, StoreError, DiskFull: the disk or the database.
    """
    output, errors = await asyncio.to_thread(lambda: (store.create(), store.create()))
    completed = failed = 0
    try:
        lines = lines_of(store.path(batch.input_sha256), limits)
        while names := await asyncio.to_thread(
            lambda: [line.custom_id for line in islice(lines, LINES_PER_READ)]
        ):
            outcomes = await reader.run(_outcomes, batch.batch_id, names, UNASKED.get(end))
            good = [text for is_completed, text in outcomes if is_completed]
            bad = [text for is_completed, text in outcomes if not is_completed]
            completed, failed = completed + len(good), failed + len(bad)
            await asyncio.to_thread(_write, ((output, good), (errors, bad)))
        made = Made(
            output if output.bytes else None, errors if errors.bytes else None, completed, failed
        )
        for file in (output, errors):
            if file.bytes:
                await asyncio.to_thread(file.finish)
            else:
                file.discard()
    except BaseException:
        output.discard()
        errors.discard()
        raise
    return made


def _write(pieces: tuple[tuple[NewFile, list[bytes]], ...]) -> None:
    for file, texts in pieces:
        file.write(b"".join(texts))


def _outcomes(
    connection: Connection, batch_id: str, names: list[str], unasked: tuple[str, str] | None
) -> list[tuple[bool, bytes]]:
    """Of each line, whether it is completed, and its line of the file it goes to."""
    found = []
    with translated("the results of a batch cannot be read"):
        for custom_id in names:
            params = {"batch_id": batch_id, "custom_id": custom_id}
            row = connection.execute(sql("select_line_outcome"), params).fetchone()
            refused, absent = None, unasked or NO_OUTCOME
            if row is None:
                refused = connection.execute(sql("select_line_mark"), params).fetchone()
                if connection.execute(sql("is_line_deleted"), params).fetchone()[0]:
                    refused, absent = None, DELETED
            found.append(_shown(custom_id, row, refused, absent))
    return found


def _shown(custom_id: str, row: Any, refused: Any, unasked: tuple[str, str]) -> tuple[bool, bytes]:
    if row is not None:
        result_id, status, http_status, code, message, body = row
        shown = _json(body)
        is_completed = status == "completed" and shown is not None
        error = None
        if not is_completed:
            error = {"code": code or "content_not_recorded", "message": message}
            shown = shown or msgspec.Raw(msgspec.json.encode({"error": error}))
        response = {"status_code": http_status, "request_id": result_id, "body": shown}
        return is_completed, _line(result_id, custom_id, response, error)
    if refused is not None:
        http_status, code, message = refused
        error = {"code": code, "message": message}
        response = {"status_code": http_status, "request_id": None, "body": {"error": error}}
        return False, _line(None, custom_id, response, error)
    code, message = unasked
    return False, _line(None, custom_id, None, {"code": code, "message": message})


def _line(
    result_id: str | None, custom_id: str, response: Any, error: dict[str, Any] | None
) -> bytes:
    name = f"batch_req_{result_id or custom_id}"
    shown = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return msgspec.json.encode(shown) + b"\n"


def _json(body: bytes | None) -> msgspec.Raw | None:
    """The body on one line; None where there is none that is JSON."""
    try:
        return msgspec.Raw(msgspec.json.format(body or b"", indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
