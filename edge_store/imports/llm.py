"""The ``logs.db`` of Simon Willison's ``llm``: the turns of today's tables (since 0.36), then the
responses of those before, which newer ones leave as they are. Images come along where the log has
them; what the log keeps by reference is put in.
"""

import base64
from collections.abc import Iterator
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from edge_store.errors import ImportFailed, StoreError
from edge_store.faults import UNFIT
from edge_store.imports.sourced import (
    FAULTS,
    Fault,
    Source,
    Sourced,
    chat_body,
    fault,
    made,
    moment,
    number,
    outputs_of,
    shown,
)
from edge_store.sql import sql_of
from edge_store.sqlite import SQLITE_ERRORS, Connection, open_foreign

__all__ = ["open_source"]

KIND = "llm"

Json = dict[str, Any]


def open_source(source: str, _table: str | None) -> Source:
    """Raises ``ImportFailed``: it is no log of ``llm``."""
    path = Path(source)
    if not path.is_file():
        raise ImportFailed(f"there is no {path}", hint="`llm logs path` says where it is")
    try:
        connection = open_foreign(path)
        tables = {name for (name,) in connection.execute(sql_of(KIND, "select_tables"))}
    except (*SQLITE_ERRORS, StoreError) as exc:
        raise ImportFailed(f"{path} cannot be read: {exc}", hint="is it llm's logs.db?") from exc
    parts, total = [], 0
    if "turns" in tables:
        total += connection.execute(sql_of(KIND, "count_turns")).fetchone()[0]
        parts.append(_turns(connection))
    if "responses" in tables:
        total += connection.execute(sql_of(KIND, "count_responses")).fetchone()[0]
        parts.append(_responses(connection, has_calls="tool_calls" in tables))
    if not parts:
        connection.close()
        raise ImportFailed(f"{path} has no table of llm's", hint="`llm logs path` says where it is")
    return Source(total, _counted(chain(*parts)), connection.close)


def _counted(rows: Iterator[Any]) -> Iterator[Sourced | Fault]:
    for place, (make, *row) in enumerate(rows, 1):
        try:
            yield Sourced(place, make(*row))
        except (*FAULTS, *SQLITE_ERRORS) as exc:
            yield fault(place, exc)


def _rows(connection: Connection, block: str, **values: Any) -> list[Json]:
    return list(_each(connection, block, **values))


def _each(connection: Connection, block: str, **values: Any) -> Iterator[Json]:
    cursor = connection.execute(sql_of(KIND, block), values)
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _turns(connection: Connection) -> Iterator[Any]:
    for turn in _each(connection, "select_turns"):
        yield _turn, connection, turn


def _turn(connection: Connection, turn: Json) -> Any:
    before = _chain(connection, turn["parent_message_hash"])
    whole = _chain(connection, turn["tip_message_hash"])
    if [each[0] for each in whole[: len(before)]] != [each[0] for each in before]:
        raise ValueError(f"turn {turn['id']}: its answer does not follow its prompt")
    asked = [message for _, found in before for message in found]
    answered = [message for _, found in whole[len(before) :] for message in found]
    said = [message for message in answered if message["role"] == "assistant"]
    calls = [call for message in said for call in message.get("tool_calls", ())]
    tools = [
        {"name": tool["name"], "description": tool["description"] or "",
         "parameters": _decoded(tool["input_schema"] or "{}", "input_schema")}
        for tool in _rows(connection, "select_turn_tools", turn=turn["id"])
    ]  # fmt: skip
    return _result(
        turn,
        asked,
        "".join(_text(message) for message in said),
        reasoning="".join(message.get("reasoning", "") for message in said) or None,
        calls=calls,
        tools=[{"type": "function", "function": tool} for tool in tools],
        schema=turn["schema"],
        thread=turn["thread_id"],
    )


def _result(
    row: Json,
    asked: list[Json],
    text: str,
    *,
    reasoning: str | None,
    calls: list[Json],
    schema: str | None,
    **more: Any,
) -> Any:
    options = _decoded(row.get("options_json") or "{}", "options_json")
    details = _decoded(row.get("token_details") or "{}", "token_details")
    asking = {"response_format": {"type": "json_schema", "json_schema": {
        "name": "schema", "schema": _decoded(schema, "schema")}}} if schema else {}  # fmt: skip
    finish = "tool_calls" if calls else None
    for message in asked:
        message.pop("reasoning", None)
    return made(
        KIND,
        row["id"],
        created_at=moment(row["datetime_utc"], "datetime_utc"),
        body=chat_body(row["model"], asked, tools=more.get("tools"), **options, **asking),
        request_model=row["model"],
        response_model=row.get("resolved_model") or row["model"],
        params=msgspec.json.encode(options | asking).decode(),
        latency_ms=number(row["duration_ms"], "duration_ms") or 0.0,
        input_tokens=_count(row.get("input_tokens"), "input_tokens"),
        output_tokens=_count(row.get("output_tokens"), "output_tokens"),
        reasoning_tokens=_count(_in(details, "reasoning_tokens"), "reasoning_tokens"),
        cached_tokens=_count(_in(details, "cached_tokens"), "cached_tokens"),
        conversation_id=more.get("thread"),
        finish_reason=finish,
        input_text="\n".join(filter(None, map(_text, asked))),
        outputs=outputs_of(
            text,
            is_json=bool(schema),
            reasoning=reasoning,
            tool_calls=msgspec.json.encode(calls).decode() if calls else None,
            finish_reason=finish,
        ),
    )


def _decoded(text: Any, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (*UNFIT, TypeError) as exc:
        raise ValueError(f"its {name}, {shown(text)}, is no JSON") from exc


def _in(details: Any, name: str) -> Any:
    """A count that providers nest: as in ``completion_tokens_details``."""
    if not isinstance(details, dict):
        return None
    inner = [each for each in details.values() if isinstance(each, dict)]
    return next((each[name] for each in (details, *inner) if name in each), None)


def _count(value: Any, of: str) -> int | None:
    found = number(value, of)
    return None if found is None else int(found)


def _text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if part["type"] == "text")


def _chain(connection: Connection, tip: str | None) -> list[tuple[str, list[Json]]]:
    """The messages up to ``tip``: of each its hash, and it in OpenAI's words."""
    rows = _rows(connection, "select_chain", tip=tip) if tip else []
    return [
        (name, _messages(connection, list(parts)))
        for name, parts in groupby(rows, key=itemgetter("hash"))
    ]


def _messages(connection: Connection, rows: list[Json]) -> list[Json]:
    """One, and one for each result of a tool in it."""
    parts: list[Json] = []
    calls: list[Json] = []
    reasoning, results = "", []
    for row in rows:
        payload = _decoded(row["payload"] or "{}", "payload")
        match row["type"]:
            case "text":
                parts.append({"type": "text", "text": _whole(connection, row, payload)})
            case "reasoning":
                reasoning += _whole(connection, row, payload)
            case "attachment":
                parts.append(_attachment(connection, payload["attachment"]["id"]))
            case "tool_call":
                calls.append(_call(payload["name"], payload["arguments"],
                                   payload.get("tool_call_id"), len(calls)))  # fmt: skip
            case "tool_result":
                results.append({"role": "tool", "tool_call_id": payload.get("tool_call_id") or "",
                                "content": payload.get("output") or ""})  # fmt: skip
    role = rows[0]["role"]
    found: list[Json] = []
    if parts or calls or not results:
        is_text = all(part["type"] == "text" for part in parts)
        content = "".join(part["text"] for part in parts) if is_text else parts
        found.append({"role": role, "content": content})
        if calls:
            found[-1]["tool_calls"] = calls
        if reasoning:
            found[-1]["reasoning"] = reasoning
    return [*results, *found]


def _call(name: str, arguments: Any, call_id: str | None, place: int) -> Json:
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    named = {"name": name, "arguments": text}
    return {"id": call_id or f"call_{place}", "type": "function", "function": named}


def _whole(connection: Connection, row: Json, payload: Json) -> str:
    """The text of a part, with the fragments that it borrows."""
    if row["text"] is not None:
        return str(row["text"])
    if "text_ref" not in payload:
        return str(payload.get("text") or "")
    pieces = []
    for piece in payload["text_ref"]:
        if "literal" in piece:
            pieces.append(piece["literal"])
        else:
            pieces += [
                f["content"] for f in _each(connection, "select_fragment", id=piece["fragment"])
            ]
    return "".join(pieces)


def _attachment(connection: Connection, name: str) -> Json:
    for found in _each(connection, "select_attachment", id=name):
        url = found["url"]
        if not url and found["content"]:
            data = base64.b64encode(found["content"]).decode()
            url = f"data:{found['type']};base64,{data}"
        if url:
            return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": f"[attachment {name}]"}  # the log has its path alone


def _responses(connection: Connection, *, has_calls: bool) -> Iterator[Any]:
    for row in _each(connection, "select_responses"):
        yield _response, connection, row, has_calls


def _response(connection: Connection, row: Json, has_calls: Any) -> Any:
    asked = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    asked.append({"role": "user", "content": row["prompt"] or ""})
    made_calls = _rows(connection, "select_response_calls", id=row["id"]) if has_calls else []
    return _result(
        row,
        asked,
        row["response"] or "",
        reasoning=row.get("reasoning") or None,
        calls=[
            _call(call["name"], call["arguments"] or "{}", call["tool_call_id"], place)
            for place, call in enumerate(made_calls)
        ],
        schema=None,
        thread=row["conversation_id"],
    )
