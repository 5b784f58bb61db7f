"""What is to be forgotten: results, what holds their text, and what has not become a result yet.

Reads only. A result's text is in more than its own row: in those of the other attempts of its batch
line, and in every response that continues it, since a response is asked with all that came before
it. So those go too. A conversation one of whose results goes is deleted with the items that were
added to it: nobody knows whose they were.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from edge_store.errors import InvalidRequest, StoreError
from edge_store.query import run_query
from edge_store.queue.held import FOLDER as HELD
from edge_store.recorder.holds import held
from edge_store.recorder.transcript import Dialect
from edge_store.selection import Selection
from edge_store.sql import sql
from edge_store.sqlite import Connection, driver, translated

__all__ = [
    "Away",
    "Choice",
    "NamesUser",
    "Turn",
    "Who",
    "asked_for",
    "choose",
    "names_of",
    "pages",
    "with_moved",
]

T = TypeVar("T")

PAGE = 256
CHOSEN_MAX = 10_000_000
UNANSWERED = 2**63  # the place of what has no seq yet: after all that has one
SINGLE = ("--", "/*", ";")

Line = tuple[str, str | None]  # a batch and a line of it; a queued request and None
NamesUser = Callable[[str, bytes], bool]  # whether a request to this route is the user's


class Who(NamedTuple):
    """Whose: a user's; or for which results an expression is true; or these; or those selected."""

    user: str | None
    where: str | None
    timeout_s: float
    ids: Sequence[str] = ()
    selection: Selection | None = None


class Choice(NamedTuple):
    """``results`` by seq with their ids; ``following`` of them only hold the text of others.

    ``requests`` are queued, ``responses`` have no result, ``lines`` are of batches; ``archived``
    results are only in the archive.
    """

    results: dict[int, str]
    archived: dict[int, str]
    following: int
    pinned: list[str]
    held: list[str]
    requests: list[str]
    responses: list[str]
    conversations: list[str]
    lines: list[Line]


class Turn(NamedTuple):
    """A response and what it was asked with."""

    place: int
    id: str
    previous_id: str | None
    conversation_id: str | None


class Away(NamedTuple):
    """Of results that are only in the archive: those that were asked for, and all that are turns
    of a conversation; and which of both, by seq, a hold is over.
    """

    asked: dict[int, str]
    turns: list[Turn]
    held: set[int]


NOTHING_AWAY = Away({}, [], set())


def pages(items: Iterable[T]) -> Iterator[list[T]]:
    """So many at a time as go into one change."""
    chosen = list(items)
    for start in range(0, len(chosen), PAGE):
        yield chosen[start : start + PAGE]


def names_of(user: str, dialects: Mapping[str, Dialect]) -> NamesUser:
    """Whether a body names ``user`` where the recorder looks for a ``user_id``."""

    def names(endpoint: str, body: bytes) -> bool:
        try:
            asked = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.encode(user) in body  # nobody can read it: better once too often
        if not isinstance(asked, dict):
            return False
        try:
            return dialects[endpoint].ask(asked).user_id == user
        except (InvalidRequest, LookupError, AttributeError, TypeError):
            return bool(asked.get("user") == user)

    return names


def choose(
    connection: Connection, who: Who, names: NamesUser | None, away: Away = NOTHING_AWAY
) -> Choice:
    """Everything that is to go. ``names`` is given with a user.

    Raises:
        InvalidRequest: ``where`` is no expression.
        QueryRefused: it does not parse, would write, or took too long.
    """
    asked = asked_for(connection, who)
    with translated("what is to be forgotten cannot be read"):
        results = dict(asked)
        lines = _lines_of(connection, results)
        for batch_id, custom_id in lines:
            params = {"batch_id": batch_id, "custom_id": custom_id}
            results |= dict(connection.execute(sql("select_results_of_line"), params).fetchall())
        unanswered = connection.execute(sql("select_unanswered_responses")).fetchall()
        named = {
            name
            for name, _, _, body, is_held in unanswered
            if names is not None
            and names("/v1/responses", sent(connection, name, body, is_held=is_held))
        }
        turns = [Turn(*row) for row in connection.execute(sql("select_turns"))]
        turns += [Turn(UNANSWERED, *row[:3]) for row in unanswered]
        ids = {*results.values(), *named, *away.asked.values()}
        reached = _reached(turns + away.turns, ids)
        there = {turn.place for turn in away.turns}
        archived = away.asked | {t.place: t.id for t in reached if t.place in there}
        results |= {
            t.place: t.id for t in reached if t.place != UNANSWERED and t.place not in there
        }
        queued = connection.execute(sql("select_queued_bodies")).fetchall()
        return Choice(
            results=dict(sorted(results.items())),
            archived=dict(sorted(archived.items())),
            following=len(results) + len(archived) - len(asked) - len(away.asked),
            pinned=_pinned(connection, results),
            held=[
                *(
                    results[seq]
                    for page in pages(results)
                    for seq in sorted(held(connection, page))
                ),
                *(name for seq, name in archived.items() if seq in away.held),
            ],
            requests=[
                name
                for name, endpoint, body, is_held in queued
                if names is not None
                and names(endpoint, sent(connection, name, body, is_held=is_held))
            ],
            responses=[*{*named, *(t.id for t in reached if t.place == UNANSWERED)}],
            conversations=sorted({t.conversation_id for t in reached if t.conversation_id}),
            lines=lines,
        )


def held_path(connection: Connection, name: str) -> Path:
    """Where the text of what is asked later lies, if redaction took something out of its row."""
    (database,) = connection.execute(sql("select_database_path")).fetchone()
    return Path(database).with_name(HELD) / Path(name).name


def with_moved(choice: Choice, before: Choice) -> Choice:
    """With those that were live ``before`` the archive was read, and are not now: retention has
    moved them meanwhile, maybe into a file that was read already.
    """
    known = choice.results | choice.archived
    moved = {seq: name for seq, name in before.results.items() if seq not in known}
    also_held = sorted({*before.held} & {*moved.values()})
    return choice._replace(archived=choice.archived | moved, held=[*choice.held, *also_held])


def sent(connection: Connection, name: str, left: bytes, *, is_held: bool) -> bytes:
    """What was sent, of which the row may have only what redaction left."""
    try:
        return held_path(connection, name).read_bytes() if is_held else left
    except FileNotFoundError:  # it was asked meanwhile
        return left
    except OSError as exc:
        raise StoreError(f"{HELD}/{name} cannot be read: {exc.strerror}") from exc


def asked_for(connection: Connection, who: Who) -> list[tuple[int, str]]:
    """The results of a database that ``who`` names, by seq and id. Raises as ``choose``."""
    statement = sql("select_results_of_user")
    params: dict[str, Any] = {"user": who.user}
    if who.where is not None:
        statement, params = sql("select_results_where"), {}
        _require_single(connection, who.where, statement)
        statement = statement.replace(":expression", f"({who.where})")
    elif who.ids:
        statement, params = sql("select_results_of_ids"), {"ids": as_array(who.ids)}
    elif who.selection is not None:
        statement, params = sql("select_results_selected"), who.selection.values
        statement = statement.replace(":condition", who.selection.condition)
    found = run_query(connection, statement, params, rows_max=CHOSEN_MAX, timeout_s=who.timeout_s)
    return [(int(seq), str(name)) for seq, name in found.rows]


def _require_single(connection: Connection, where: str, statement: str) -> None:
    """Refuse what is an expression only between brackets, as ``1) OR (1`` is."""
    if any(mark in where for mark in SINGLE):
        raise InvalidRequest(
            f"{where!r} is no single expression: it may hold none of {' '.join(SINGLE)}"
        )
    try:
        connection.execute(f"EXPLAIN {statement.replace(':expression', where)}").close()
    except driver.Error as exc:
        if "syntax error" in str(exc) or "incomplete input" in str(exc):
            raise InvalidRequest(
                f"{where!r} is no single expression: {exc}", hint="look at its brackets"
            ) from exc


def _lines_of(connection: Connection, results: Iterable[int]) -> list[Line]:
    return [
        row
        for page in pages(results)
        for row in connection.execute(sql("select_lines_of"), {"seqs": as_array(page)})
    ]


def _pinned(connection: Connection, results: Mapping[int, str]) -> list[str]:
    return [
        row[0]
        for page in pages(results.values())
        for row in connection.execute(sql("select_pinned"), {"ids": as_array(page)})
    ]


def as_array(values: Sequence[Any]) -> str:
    """A JSON array."""
    return msgspec.json.encode(values).decode()


def _reached(turns: list[Turn], ids: set[str]) -> list[Turn]:
    """Those of ``ids``, those that continue them, and what came later in their conversations."""
    by_id = {turn.id: turn for turn in turns}
    after: dict[str, list[Turn]] = defaultdict(list)
    within: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        if turn.previous_id is not None:
            after[turn.previous_id].append(turn)
        if turn.conversation_id is not None:
            within[turn.conversation_id].append(turn)
    seen, left = set(ids), list(ids)
    since: dict[str, int] = {}  # the earliest place that was reached of each conversation
    while left:
        name = left.pop()
        found = after.get(name, [])
        turn = by_id.get(name, Turn(UNANSWERED, name, None, None))
        bound = since.get(turn.conversation_id or "", UNANSWERED + 1)
        if turn.conversation_id is not None and turn.place < bound:
            since[turn.conversation_id] = turn.place
            members = within[turn.conversation_id]
            found = found + [each for each in members if turn.place < each.place <= bound]
        for each in found:
            if each.id not in seen:
                seen.add(each.id)
                left.append(each.id)
    return [by_id[name] for name in seen if name in by_id]
