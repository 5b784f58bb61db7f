"""Conversations in the database, and what a response reads as its context. Plain functions of a
connection; those that write are changes.

A conversation is a list of entries, in the order in which they came: an item that was added by
itself, or a response, whose items are read from its request and its result. So they are stored
once, the answer under the digest chain, and go when the response goes; what is taken out of a
response's by itself leaves a mark.
"""

import time
from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec

from edge_store.clock import now_ms
from edge_store.errors import NotFound
from edge_store.ids import RESPONSE_PREFIX, new_result_id
from edge_store.paging import Paging
from edge_store.recorder.caller import EVERYBODY, Caller
from edge_store.responses.ask import Item, Metadata, converted, fault, read_ask
from edge_store.responses.events import Event, items_of
from edge_store.responses.items import input_items, item_json, owner_of
from edge_store.responses.store import Found, find, output_of
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "Conversation",
    "add_items",
    "create",
    "delete",
    "delete_item",
    "find_conversation",
    "find_item",
    "page_of",
    "read_context",
    "update",
]

CONVERSATION_PREFIX = "conv_"
ENTRY_NO_MAX = 2**63 - 1
CONTEXT_SECONDS_MAX = 5.0
LINK_BYTES = 256  # that a link of a chain counts for at least


class Conversation(Record, frozen=True, kw_only=True):
    """A conversation as the API shows it."""

    id: str
    created_at: int
    metadata: Metadata
    object: str = "conversation"


def create(
    connection: Connection, caller: Caller, metadata: Metadata, items: list[Item]
) -> Conversation:
    """Begin a conversation with these items."""
    made = Conversation(
        id=CONVERSATION_PREFIX + new_result_id(), created_at=now_ms() // 1000, metadata=metadata
    )
    connection.execute(
        sql("insert_conversation"),
        {
            "conversation_id": made.id,
            "created_at": now_ms(),
            "tenant": caller.tenant,
            "metadata": msgspec.json.encode(metadata).decode(),
        },
    )
    add_items(connection, made.id, caller, items)
    return made


def find_conversation(connection: Connection, conversation_id: str, caller: Caller) -> Conversation:
    """A conversation that the caller may see.

    Raises:
        NotFound: there is none.
    """
    return _seen(connection, conversation_id, caller)[0]


def _own(connection: Connection, conversation_id: str, caller: Caller) -> Conversation:
    """A conversation that the caller may change.

    Raises:
        NotFound: there is none that it sees.
        Forbidden: it is another tenant's.
    """
    found, tenant = _seen(connection, conversation_id, caller)
    caller.require_own(tenant, f"the conversation {conversation_id}")
    return found


def _seen(
    connection: Connection, conversation_id: str, caller: Caller
) -> tuple[Conversation, str | None]:
    """A conversation, and whose it is. Raises ``NotFound``."""
    params = {"conversation_id": conversation_id, "tenant": caller.tenant}
    with translated("a conversation cannot be read"):
        row = connection.execute(
            sql("select_conversation"), {**params, "sees_all": caller.sees_all}
        ).fetchone()
    if row is None:
        raise NotFound(f"there is no conversation {conversation_id!r}")
    found_id, tenant, created_at, metadata = row
    found = Conversation(
        id=found_id, created_at=created_at // 1000, metadata=msgspec.json.decode(metadata)
    )
    return found, tenant


def update(
    connection: Connection, conversation_id: str, caller: Caller, metadata: Metadata
) -> Conversation:
    """Give a conversation other metadata. Raises ``NotFound``, ``Forbidden``."""
    found = _own(connection, conversation_id, caller)
    text = msgspec.json.encode(metadata).decode()
    params = {"at": now_ms(), "conversation_id": conversation_id, "metadata": text}
    connection.execute(sql("insert_conversation_metadata"), params)
    return msgspec.structs.replace(found, metadata=metadata)


def delete(connection: Connection, conversation_id: str, caller: Caller) -> None:
    """Delete a conversation with the items that were added to it; its responses stay.

    Raises:
        NotFound, Forbidden: there is none that it may.
    """
    _own(connection, conversation_id, caller)
    params = {"conversation_id": conversation_id}
    connection.execute(sql("delete_conversation_metadata"), params)
    connection.execute(sql("delete_conversation"), params)


def add_items(
    connection: Connection, conversation_id: str, caller: Caller, items: list[Item]
) -> list[Event]:
    """Add items at the end of a conversation. Raises ``NotFound``, ``Forbidden``."""
    _own(connection, conversation_id, caller)
    added = [item_json(item, new_result_id()) for item in items]
    for item in added:
        _enter(connection, conversation_id, "item", item["id"], msgspec.json.encode(item).decode())
    return added


def _enter(
    connection: Connection, conversation_id: str, kind: str, entry_id: str, item: str | None
) -> None:
    params = {"conversation_id": conversation_id, "at": now_ms(), "kind": kind, "id": entry_id}
    connection.execute(sql("insert_entry"), {**params, "item": item})


def find_item(connection: Connection, conversation_id: str, item_id: str, caller: Caller) -> Event:
    """One item. Raises ``NotFound``."""
    find_conversation(connection, conversation_id, caller)
    first = _place_of(connection, conversation_id, item_id)
    with (
        translated("a conversation cannot be read"),
        closing(_items(connection, conversation_id, (first, first))) as items,
    ):
        for item in items:
            if item["id"] == item_id:
                return item
    raise _no_item(item_id)


def delete_item(
    connection: Connection, conversation_id: str, item_id: str, caller: Caller
) -> Conversation:
    """Take an item out of a conversation. Raises ``NotFound``, ``Forbidden``."""
    found = _own(connection, conversation_id, caller)
    find_item(connection, conversation_id, item_id, caller)
    if owner_of(item_id) is None:
        params = {"conversation_id": conversation_id, "id": item_id}
        connection.execute(sql("delete_entry"), params)
    else:
        _enter(connection, conversation_id, "removed", item_id, None)
    return found


def page_of(
    connection: Connection, conversation_id: str, caller: Caller, paging: Paging
) -> tuple[list[Event], bool]:
    """A page of a conversation's items, and whether there are more. Raises ``NotFound``."""
    find_conversation(connection, conversation_id, caller)
    first, last, is_descending = 0, ENTRY_NO_MAX, paging.is_descending
    if paging.after is not None:
        place = _place_of(connection, conversation_id, paging.after)
        first, last = (first, place) if is_descending else (place, last)
    with (
        translated("a conversation cannot be read"),
        closing(
            _items(connection, conversation_id, (first, last), is_descending=is_descending)
        ) as items,
    ):
        if paging.after is not None and not any(item["id"] == paging.after for item in items):
            raise _no_item(paging.after)
        found = list(islice(items, paging.limit + 1))
    return found[: paging.limit], len(found) > paging.limit


def _no_item(item_id: str) -> NotFound:
    return NotFound(f"there is no item {item_id!r} in this conversation")


def _place_of(connection: Connection, conversation_id: str, item_id: str) -> int:
    """The number of the entry that the item is in."""
    params = {"conversation_id": conversation_id, "id": owner_of(item_id) or item_id}
    row = connection.execute(sql("select_entry_no"), params).fetchone()
    if row is None:
        raise _no_item(item_id)
    return int(row[0])


def _items(
    connection: Connection,
    conversation_id: str,
    between: tuple[int, int],
    *,
    is_descending: bool = False,
) -> Generator[Event, None, None]:
    """The items of the entries with these numbers, one entry after the other."""
    params: dict[str, Any] = {"conversation_id": conversation_id}
    removed = {row[0] for row in connection.execute(sql("select_removed"), params)}
    params |= {"first": between[0], "last": between[1]}
    block = "select_entries_descending" if is_descending else "select_entries"
    with closing(connection.execute(sql(block), params)) as entries:
        for _no, kind, entry_id, item in entries:
            if kind == "item":
                yield msgspec.json.decode(item)
                continue
            found = find(connection, entry_id, EVERYBODY)
            items = _items_of(found) if found is not None else []
            for shown in reversed(items) if is_descending else items:
                if shown["id"] not in removed:
                    yield shown


def _items_of(found: Found) -> list[Event]:
    """A response's items, the input first."""
    asked = input_items(read_ask(found.kept.request).items, found.kept.id)
    return asked if found.recorded is None else asked + output_of(found.recorded)[1]


def read_context(
    connection: Connection,
    conversation_id: str | None,
    previous_id: str | None,
    caller: Caller,
    bytes_max: int,
) -> list[Item]:
    """What came before a response: the items of its conversation, or of the chain that it
    continues, which may have begun in a conversation.

    Raises:
        NotFound: there is no such conversation.
        Forbidden: the conversation, which the response will be a part of, is another tenant's.
        InvalidRequest: a response of the chain is not there or has not ended; or all of it is more
            than ``bytes_max``, or than is read in ``CONTEXT_SECONDS_MAX``.
    """
    links: list[list[Item]] = []
    upto, room = ENTRY_NO_MAX, Room(bytes_max)
    if conversation_id is not None:
        _own(connection, conversation_id, caller)
    while previous_id is not None:
        found = find(connection, previous_id, caller, with_content=False)
        if found is None:
            raise fault(f"{RESPONSE_PREFIX}{previous_id} is not here", "previous_response_id")
        if found.recorded is None:
            raise fault(
                f"{RESPONSE_PREFIX}{previous_id} has no answer (yet)", "previous_response_id"
            )
        conversation_id = found.kept.conversation_id
        if conversation_id is not None:
            upto = _place_of(connection, conversation_id, previous_id)
            break
        link = _link(found)
        links.append(link)
        room.take(max(len(msgspec.json.encode(link)), LINK_BYTES), "previous_response_id")
        previous_id = found.kept.previous_id
    items: list[Item] = []
    if conversation_id is not None:
        find_conversation(connection, conversation_id, caller)
        with closing(_items(connection, conversation_id, (0, upto))) as before:
            for item in before:
                room.take(len(msgspec.json.encode(item)), "conversation")
                items += converted([item], list[Item])
    return items + [item for link in reversed(links) for item in link]


def _link(found: Found) -> list[Item]:
    """A response of a chain: what was asked, and the outputs that were recorded."""
    assert found.recorded is not None
    result = found.recorded.result
    output = [item for output in result.outputs[:1] for item in items_of(result.id, output)]
    return [*read_ask(found.kept.request).items, *converted(output, list[Item])]


class Room:
    """What a context may have: bytes, and time to be read in."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._left = bytes_max
        self._deadline = time.monotonic() + CONTEXT_SECONDS_MAX

    def take(self, size: int, param: str) -> None:
        """Count ``size`` more bytes. Raises ``InvalidRequest``."""
        self._left -= size
        if self._left < 0:
            most = f"{self._bytes_max} bytes (server.body_bytes_max)"
            raise fault(f"what came before has over {most}: begin a new one", param)
        if time.monotonic() > self._deadline:
            problem = f"what came before was not read within {CONTEXT_SECONDS_MAX:g} s"
            raise fault(f"{problem}: begin a new one, or try again", param)
