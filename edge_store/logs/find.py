"""One result by the beginning of its id, whole, with what was said of it later. A beginning is one
result's where no other has it, live or in the archive.
"""

import re
from contextlib import suppress
from typing import Any

import msgspec

from edge_store.errors import InvalidRequest, NotFound, StoreError
from edge_store.ids import RESPONSE_PREFIX
from edge_store.result import Output, Recorded, Result
from edge_store.rows import load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["find_id", "find_noted_id", "is_pinned", "load", "repaired", "short_ids"]

BEGINNING = re.compile(r"[0-9a-f]{1,8}(-([0-9a-f]{1,4}(-|$)){0,3}([0-9a-f]{1,12})?)?$")
WHOLE_CHARS = 36
SHORT_CHARS = 13  # the milliseconds of a UUIDv7: an id that comes later has others


def find_id(connection: Connection, text: str) -> str:
    """The id that ``text`` is, or begins alone. Of a response the id is its result's.

    Raises:
        InvalidRequest: it is the beginning of none, or of several, live or archived.
        NotFound: there is no such result.
    """
    begun = _begun(text)
    found = _ids_from(connection, "log_ids_from", begun)
    if not found:
        raise _not_here(connection, text, begun)
    if len(found) > 1:
        raise _several(text, found[0])
    if len(begun) < WHOLE_CHARS:
        others = [name for name in _archived_from(connection, begun) if name != found[0]]
        if others:
            raise InvalidRequest(
                f"several ids begin with {text!r}: {found[0]}, and {others[0]} in the archive",
                hint="give more of it",
            )
    return found[0]


def find_noted_id(connection: Connection, text: str) -> str:
    """The same of ids that may be gone: of what is here, was deleted, archived or lost.

    Raises:
        InvalidRequest: it is the beginning of none, or of several.
        NotFound: nothing here begins so.
    """
    found = _ids_from(connection, "log_noted_from", _begun(text))
    if len(found) > 1:
        raise _several(text, found[0])
    if not found:
        raise NotFound(
            f"no id that is known here begins with {text!r}",
            hint="give the whole id: its time tells in which boot it would have been made",
        )
    return found[0]


def _begun(text: str) -> str:
    begun = text.strip().lower().removeprefix(RESPONSE_PREFIX)
    if not BEGINNING.fullmatch(begun):
        raise InvalidRequest(
            f"{text!r} is not the id of a result, nor its beginning",
            hint="`edge-store logs ls` shows ids, as 0190d3e1-7c1f-7a5e",
        )
    return begun


def _ids_from(connection: Connection, block: str, begun: str) -> list[str]:
    with translated(f"result {begun!r} cannot be looked for"):
        rows = connection.execute(sql(block), {"first": begun, "end": f"{begun}g"}).fetchall()
    return [str(name) for (name,) in rows]


def _archived_from(connection: Connection, begun: str) -> list[str]:
    with suppress(StoreError):  # of an older schema
        return _ids_from(connection, "log_archived_from", begun)
    return []


def _several(text: str, one: str) -> InvalidRequest:
    return InvalidRequest(
        f"several ids begin with {text!r}: {one} is one of them", hint="give more of it"
    )


def _not_here(connection: Connection, text: str, begun: str) -> NotFound:
    archived = _archived_from(connection, begun)
    if len(archived) == 1:
        (found,) = archived
        return NotFound(
            f"the result {found} is in the archive, not here any more",
            hint=f"edge-store archive query \"select * from generations where id = '{found}'\"",  # noqa: S608  (shown)
        )
    if archived:
        return NotFound(
            f"several ids in the archive begin with {text!r}: {archived[0]} is one of them",
            hint="give more of it",
        )
    return NotFound(
        f"there is no result {text!r} here",
        hint=f"`edge-store receipt {text}` says what became of it",
    )


def load(connection: Connection, result_id: str) -> Recorded:
    """The whole result with this id.

    Raises:
        NotFound: it is not here any more.
    """
    with translated(f"result {result_id!r} cannot be read"):
        cursor = connection.execute(sql("select_result_by_id"), {"id": result_id})
        for recorded in load_recorded(connection, cursor):
            return recorded
    raise NotFound(f"there is no result {result_id!r} here")


def repaired(connection: Connection, result: Result) -> tuple[Output, ...]:
    """Its outputs as the newest repairs have them."""
    cannot = translated(f"the repairs of {result.id!r} cannot be read")
    newest: dict[int, dict[str, Any]] = {}
    with cannot:
        cursor = connection.execute(sql("log_repairs"), {"id": result.id})
        names = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            newest[row.pop("choice_index")] = row
    return tuple(
        msgspec.convert(
            {**msgspec.structs.asdict(output), **newest[output.choice_index]}, Output, strict=False
        )
        if output.choice_index in newest
        else output
        for output in result.outputs
    )


def is_pinned(connection: Connection, result_id: str) -> bool:
    """Whether the newest that was said of it is a pin."""
    with translated(f"the pin of {result_id!r} cannot be read"):
        row = connection.execute(sql("log_pin_of"), {"id": result_id}).fetchone()
    return row is not None and row[0] not in ("false", "null")


def short_ids(connection: Connection, ids: list[str]) -> list[str]:
    """Beginnings, as long as each other, of which each is of one id alone, of those that are here
    and that were deleted.
    """
    length = SHORT_CHARS
    with translated("ids cannot be read"):
        for result_id in ids:
            for other in connection.execute(sql("log_neighbours"), {"id": result_id}).fetchone():
                if other is not None:
                    length = max(length, _common(result_id, other) + 1)
    return [result_id[:length] for result_id in ids]


def _common(one: str, other: str) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
