"""How a batch begins and ends: its input is checked, and its files are made from its results."""

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from edge_store.clock import now_ms
from edge_store.ids import new_result_id
from edge_store.loggers import get_logger
from edge_store.queue.asking import Change
from edge_store.queue.files import FileStore, NewFile
from edge_store.queue.input import FAULTS_SHOWN, Limits, check
from edge_store.queue.output import make_files
from edge_store.queue.records import Batch, BatchDetail, BatchState, InputFault, StoredFile
from edge_store.queue.store import add_event, batch_usage
from edge_store.recorder.redacting import Redacting
from edge_store.sqlite import DatabaseThread

__all__ = ["Beginning", "Ending", "begin", "finish", "new_file_id"]

log = get_logger(__name__)


class Beginning(NamedTuple):
    """What is needed to begin a batch."""

    store: FileStore
    limits: Limits
    redacting: Redacting


class Ending(NamedTuple):
    """What a batch ends with, and what is needed for it."""

    state: BatchState
    store: FileStore
    limits: Limits
    reader: DatabaseThread


def new_file_id() -> str:
    """Sorts after those before it."""
    return f"file-{new_result_id()}"


async def begin(batch: Batch, beginning: Beginning, change: Change) -> Batch:
    """Check the input: the batch is in progress then, or has failed.

    Raises:
        StoreError: the disk or the database.
    """
    redacting = beginning.redacting
    path = beginning.store.path(batch.input_sha256)
    try:
        checked = await asyncio.to_thread(check, path, batch.endpoint, beginning.limits)
    except FileNotFoundError:
        fault = InputFault(code="file_missing", message="the input file is not on this box")
        return await _failed(batch, (fault,), change)
    faults = checked.faults or await _telling_names(checked.names, redacting)
    if faults:
        messages = await redacting.texts(tuple(fault.message for fault in faults))
        told = (
            msgspec.structs.replace(fault, message=message)
            for fault, message in zip(faults, messages, strict=True)
        )
        return await _failed(batch, tuple(told), change)
    model = None if checked.model is None else await redacting.text(checked.model)
    detail = BatchDetail(lines=checked.lines, model=model)
    log.info("batch_began", batch_id=batch.batch_id, lines=checked.lines)
    begun: Batch = await change(add_event, batch.batch_id, BatchState.IN_PROGRESS, detail)
    return begun


async def _telling_names(names: Mapping[str, int], redacting: Redacting) -> tuple[InputFault, ...]:
    """The lines whose names hold what is to be taken out: a line is found again by its name."""
    if not redacting.is_on:
        return ()
    kept = await redacting.texts(tuple(names))
    found = (
        InputFault(
            code="custom_id_not_kept",
            message="`custom_id` holds what the rules of [privacy] take out of all that is stored",
            line=number,
            param="custom_id",
        )
        for (name, number), left in zip(names.items(), kept, strict=True)
        if name != left
    )
    return tuple(islice(found, FAULTS_SHOWN))


async def _failed(batch: Batch, faults: tuple[InputFault, ...], change: Change) -> Batch:
    failed: Batch = await change(
        add_event, batch.batch_id, BatchState.FAILED, BatchDetail(errors=faults)
    )
    return failed


async def finish(batch: Batch, ending: Ending, change: Change) -> Batch:
    """Make the files of a batch and end it. May be repeated until it has ended.

    Raises:
        OSError, EdgeStoreError: the disk or the database.
    """
    end = ending.state
    if batch.state is BatchState.FINALIZING and batch.at[BatchState.FINALIZING] >= batch.expires_at:
        end = BatchState.EXPIRED  # it was so before a restart
    if batch.detail.lines is None:  # cancelled, or expired, before it was known to have any
        ended: Batch = await change(add_event, batch.batch_id, end)
        return ended
    if not ending.store.path(batch.input_sha256).exists():
        fault = InputFault(code="file_missing", message="the input file is not on this box")
        return await _failed(batch, (fault,), change)
    if batch.state is BatchState.IN_PROGRESS and end is not BatchState.CANCELLED:
        batch = await change(add_event, batch.batch_id, BatchState.FINALIZING)
    made = await make_files(batch, end, ending.store, ending.reader, ending.limits)
    try:
        usage = await ending.reader.run(batch_usage, batch.batch_id)
        output = _entered(batch, made.output, "output")
        errors = _entered(batch, made.errors, "errors")
        detail = BatchDetail(
            completed=made.completed,
            failed=made.failed,
            usage=usage,
            output_file_id=output.file_id if output else None,
            error_file_id=errors.file_id if errors else None,
        )
        files = tuple(file for file in (output, errors) if file is not None)
        new = [file for file in (made.output, made.errors) if file is not None]
        return await ending.store.publish(
            new, lambda: change(add_event, batch.batch_id, end, detail, None, files)
        )
    finally:
        made.discard()


def _entered(batch: Batch, file: NewFile | None, what: str) -> StoredFile | None:
    if file is None:
        return None
    now = now_ms()
    keep_s = batch.output_expires_s
    return StoredFile(
        file_id=new_file_id(),
        created_at=now,
        expires_at=None if keep_s is None else now + keep_s * 1000,
        tenant=batch.tenant,
        purpose="batch_output",
        filename=f"{batch.batch_id}_{what}.jsonl",
        bytes=file.bytes,
        sha256=file.sha256,
    )
