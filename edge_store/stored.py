"""Stored completions: the chats that were answered whole, as OpenAI's API shows them.

Read from the rows of any connection; changed by plain functions in the writer's turn
(``Writer.change``). A row never changes: new metadata is a row of ``annotations``, a deletion
leaves a row of ``deletions``. What is another tenant's is as if it were not there.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import NotFound, QueryRefused
from edge_store.indexes import JsonPath
from edge_store.paging import Paging
from edge_store.recorder.caller import Caller
from edge_store.recorder.deletions import Reason, delete_here
from edge_store.recorder.holds import require_free
from edge_store.result import Output, Record, Recorded, Result, Status
from edge_store.rows import load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "Wanted",
    "completion",
    "delete_completion",
    "find_completion",
    "find_result",
    "messages",
    "newest_metadata",
    "page",
    "update_metadata",
]

ENDPOINT = "/v1/chat/completions"
SEARCH_SECONDS_MAX = 2.0
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
PAGE_BYTES_MAX = 16 * 1024 * 1024  # of outputs and bodies
SEQ_MAX = 2**63 - 1
# An index of answers' own ids would cost each insert a page; that of their seqs is read instead.
LOOK_BACK = 200_000  # results; 15 to 40 ms
KEY = re.compile(r"[\w-]+")
BEFORE_ALL = -1  # SQLite sorts a number before every text
# of a request, as far as it had them
ECHOED = (
    "tool_choice",
    "tools",
    "seed",
    "top_p",
    "temperature",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
)

Json = dict[str, Any]


class Wanted(Record, frozen=True, kw_only=True):
    """Which completions. ``metadata``: all of these pairs."""

    paging: Paging
    model: str | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class Group(NamedTuple):
    """Completions whose seqs are in the index one after the other."""

    tenant: str
    model: str


def find_result(
    connection: Connection, caller: Caller, name: str, *, with_content: bool = True
) -> Recorded | None:
    """The result that ``name`` is the id of, if the caller may see it: ours, or the answer's own
    among the newest ``LOOK_BACK``. Where an upstream gave one id twice, the newest.
    """
    with translated(f"result {name!r} cannot be read"):
        found = _by_id(connection, name, with_content=with_content)
        if found is None:
            (last,) = connection.execute(sql("select_last_seq")).fetchone()
            asked = {"name": name, "of_tenant": caller.only_tenant, "after": last - LOOK_BACK}
            row = connection.execute(sql("select_id_by_response_id"), asked).fetchone()
            found = _by_id(connection, row[0], with_content=with_content) if row else None
    return found if found is not None and caller.sees(found.result.tenant) else None


def _by_id(connection: Connection, result_id: str, *, with_content: bool) -> Recorded | None:
    cursor = connection.execute(sql("select_result_by_id"), {"id": result_id})
    return next(iter(list(load_recorded(connection, cursor, with_content=with_content))), None)


def find_completion(
    connection: Connection, caller: Caller, name: str, *, with_content: bool = True
) -> Recorded:
    """As ``find_result``. Raises ``NotFound`` for what is no stored completion."""
    return _stored(find_result(connection, caller, name, with_content=with_content), name)


def _stored(found: Recorded | None, name: str) -> Recorded:
    if found is None or not _is_stored(found.result):
        raise NotFound(
            f"there is no stored completion {name!r}",
            hint="only chats that were answered whole are stored, without `store: false`",
        )
    return found


def _is_stored(result: Result) -> bool:
    is_whole = result.endpoint == ENDPOINT and result.status is Status.COMPLETED
    return is_whole and bool(result.outputs)


def page(connection: Connection, caller: Caller, wanted: Wanted) -> tuple[list[Json], bool]:
    """Completions by the order of their commits, and whether there are more.

    A page with large bodies ends early.

    Raises:
        NotFound: `after` is the id of nothing that is or was here.
        QueryRefused: what few are wanted was not found in time.
    """
    with _bounded(connection, wanted), translated("stored completions cannot be read"):
        asked = {
            "seq": _start(connection, caller, wanted),
            "metadata": msgspec.json.encode(wanted.metadata).decode(),
            "limit": wanted.paging.limit + 1,
        }
        key = _indexed_key(connection, wanted)
        if key is None:
            places = _by_group(connection, caller, wanted, asked)
        else:
            places = _by_metadata(connection, caller, wanted, asked, key)
    found = sorted(places, reverse=wanted.paging.is_descending)
    shown: list[Json] = []
    size = 0
    for _seq, result_id in found[: wanted.paging.limit]:
        if size > PAGE_BYTES_MAX:
            return shown, True
        with translated("stored completions cannot be read"):
            recorded = _by_id(connection, result_id, with_content=True)
        if recorded is not None:  # else deleted in this moment
            shown.append(completion(connection, recorded))
            size += len(recorded.result.content.response_body)
    return shown, len(found) > wanted.paging.limit


def _by_group(
    connection: Connection, caller: Caller, wanted: Wanted, asked: Json
) -> set[tuple[int, str]]:
    """The first ones of each tenant and model: seqs and ids."""
    block = sql("select_stored_before" if wanted.paging.is_descending else "select_stored_after")
    found: set[tuple[int, str]] = set()
    for group in _groups(connection, caller, wanted.model):
        found.update(connection.execute(block, {**asked, **group._asdict()}))
    return found


def _by_metadata(
    connection: Connection, caller: Caller, wanted: Wanted, asked: Json, key: str
) -> set[tuple[int, str]]:
    """The first ones that came with that metadata, or were given it later: seqs and ids."""
    asked = {
        **asked,
        "tenant": caller.only_tenant,
        "model": wanted.model,
        "value": wanted.metadata[key],
    }
    blocks = (
        ("select_stored_indexed_before", "select_stored_annotated_before")
        if wanted.paging.is_descending
        else ("select_stored_indexed_after", "select_stored_annotated_after")
    )
    path = JsonPath.parse(f"metadata.{key}")
    found: set[tuple[int, str]] = set()
    for block in blocks:
        found.update(connection.execute(path.sql(block), asked))
    return found


def _indexed_key(connection: Connection, wanted: Wanted) -> str | None:
    """One that is asked for and has an index of the operator's."""
    if not wanted.metadata:
        return None
    paths = {path for (path,) in connection.execute(sql("select_json_indexes"))}
    keys = filter(KEY.fullmatch, wanted.metadata)  # a key with a dot in it is not the path
    return next((key for key in keys if f"metadata.{key}" in paths), None)


@contextmanager
def _bounded(connection: Connection, wanted: Wanted) -> Iterator[None]:
    """A search that matches little reads much: not longer than others can wait."""
    deadline = time.monotonic() + SEARCH_SECONDS_MAX
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
    try:
        yield
    except Exception as exc:
        if getattr(exc.__cause__, "sqlite_errorcode", None) != driver.SQLITE_INTERRUPT:
            raise
        raise QueryRefused(
            f"no whole page of completions was found within {SEARCH_SECONDS_MAX:g} s",
            hint="an index on the metadata makes it fast: stop the daemon, and "
            f"`edge-store index add metadata.{next(iter(wanted.metadata), 'KEY')}`",
        ) from exc
    finally:
        connection.set_progress_handler(None, 0)


def _start(connection: Connection, caller: Caller, wanted: Wanted) -> int:
    """The seq from which on they come: of a completion that was deleted meanwhile, too."""
    if wanted.paging.after is None:
        return SEQ_MAX if wanted.paging.is_descending else 0
    found = find_result(connection, caller, wanted.paging.after, with_content=False)
    if found is not None:
        return found.seq
    row = connection.execute(
        sql("select_deleted_seq"), {"id": wanted.paging.after, "of_tenant": caller.only_tenant}
    ).fetchone()
    if row is None:
        raise NotFound(f"`after` = {wanted.paging.after!r}: there is no such completion")
    return int(row[0])


def _groups(connection: Connection, caller: Caller, model: str | None) -> Iterator[Group]:
    """Of each tenant that the caller may see, each model, or the one. A step in the index each."""
    only = caller.only_tenant
    for tenant in _tenants(connection) if only is None else (only,):
        if model is not None:
            yield Group(tenant, model)
            continue
        last: str | int = BEFORE_ALL
        while (found := _next_model(connection, tenant, last)) is not None:
            yield Group(tenant, found)
            last = found


def _tenants(connection: Connection) -> Iterator[str]:
    last: str | int = BEFORE_ALL
    while True:
        (found,) = connection.execute(sql("select_next_stored_tenant"), {"tenant": last}).fetchone()
        if found is None:
            return
        yield found
        last = found


def _next_model(connection: Connection, tenant: str, last: str | int) -> str | None:
    asked = {"tenant": tenant, "model": last}
    found: str | None = connection.execute(sql("select_next_stored_model"), asked).fetchone()[0]
    return found


def completion(connection: Connection, recorded: Recorded) -> Json:
    """The completion as OpenAI's API shows a stored one.

    A plain answer is what the engine sent; one of a stream, and one whose body is not stored any
    more, is put together from its choices. ``id`` is ours, whatever an upstream called it.
    """
    result = recorded.result
    params = msgspec.json.decode(result.params)
    shown: Json = {
        "created": result.created_at // 1000,
        "model": result.response_model or result.request_model,
        "choices": [_choice(output) for output in result.outputs],
        "usage": _usage(result),
        "system_fingerprint": None,
        "service_tier": None,
        **(_plain_body(result) or {}),
        "id": result.id,
        "object": "chat.completion",
        "request_id": result.id,
        "input_user": result.user_id,
        "metadata": msgspec.Raw((newest_metadata(connection, result) or "{}").encode()),
    }
    for name in ECHOED:
        shown.setdefault(name, params.get(name))
    return shown


def _plain_body(result: Result) -> dict[str, msgspec.Raw] | None:
    """What the engine sent; None where that was a stream."""
    try:
        body = msgspec.json.decode(result.content.response_body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if "choices" in body else None


def _choice(output: Output) -> Json:
    calls = msgspec.json.decode(output.tool_calls) if output.tool_calls else None
    message: Json = {
        "role": "assistant",
        "content": output.output_text or (None if calls else ""),
        "refusal": None,
    }
    if output.reasoning is not None:
        message["reasoning_content"] = output.reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": output.choice_index,
        "message": message,
        "logprobs": None,
        "finish_reason": output.finish_reason,
    }


def _usage(result: Result) -> Json | None:
    if result.input_tokens is None or result.output_tokens is None:
        return None
    usage: Json = {
        "prompt_tokens": result.input_tokens,
        "completion_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
    }
    if result.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": result.cached_tokens}
    if result.reasoning_tokens is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": result.reasoning_tokens}
    return usage


def newest_metadata(connection: Connection, result: Result) -> str | None:
    """What was said last, as JSON."""
    with translated("metadata cannot be read"):
        row = connection.execute(sql("select_metadata"), {"id": result.id}).fetchone()
    return row[0] if row else result.metadata


def messages(recorded: Recorded) -> list[Json]:
    """What was asked, message by message.

    Raises:
        NotFound: the request is not stored any more.
    """
    result = recorded.result
    if not result.content.request_body:
        raise NotFound(f"the messages of {result.id!r} are not stored")
    asked = msgspec.json.decode(result.content.request_body)["messages"]
    return [_message(f"{result.id}-{place}", message) for place, message in enumerate(asked)]


def _message(name: str, message: Json) -> Json:
    """``content`` is a text; what was given in parts is in ``content_parts``."""
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    return {
        "name": None,
        **message,
        "id": name,
        "content": None if parts is not None else content,
        "content_parts": parts,
    }


def _own_completion(connection: Connection, caller: Caller, result_id: str) -> Recorded:
    """By our id alone: who looks for another's would hold up the writer."""
    with translated(f"result {result_id!r} cannot be read"):
        found = _by_id(connection, result_id, with_content=False)
    if found is not None and not caller.sees(found.result.tenant):
        found = None
    found = _stored(found, result_id)
    caller.require_own(found.result.tenant, f"the completion {result_id!r}")
    return found


def update_metadata(
    connection: Connection, caller: Caller, result_id: str, metadata: dict[str, Any]
) -> None:
    """Say what its metadata is from now on. In the writer's turn.

    Raises:
        NotFound: it is no stored completion that this caller sees.
        Forbidden: it is another tenant's.
    """
    found = _own_completion(connection, caller, result_id)
    value = msgspec.json.encode(metadata).decode()
    row = {"at": now_ms(), "id": found.result.id, "value": value}
    connection.execute(sql("insert_metadata"), row)


def delete_completion(connection: Connection, caller: Caller, result_id: str) -> None:
    """Forget it, here and in every copy. In the writer's turn.

    Raises:
        NotFound: it is no stored completion that this caller sees.
        Forbidden: it is another tenant's, pinned or held.
    """
    found = _own_completion(connection, caller, result_id)
    require_free(connection, [found.seq])
    delete_here(connection, [found.seq], Reason.FORGET)
