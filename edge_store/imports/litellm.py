"""LiteLLM's spend logs: rows of ``LiteLLM_SpendLogs`` as JSON lines or CSV (as psql, its API
and its UI give them), or from its PostgreSQL. The texts are there where LiteLLM stores them
(``store_prompts_in_spend_logs``); of the others remain the counts and the times.
"""

import csv
import io
from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Any, BinaryIO, TextIO

import msgspec

from edge_store.imports.jsonl import lines_of, opened
from edge_store.imports.postgres import is_url, table_source
from edge_store.imports.sourced import (
    CHAT,
    FAULTS,
    Fault,
    Source,
    Sourced,
    chat_body,
    fault,
    made,
    moment,
    number,
    shown,
    unread,
)
from edge_store.result import Operation, Output, Status

__all__ = ["open_source"]

KIND = "litellm"
TABLE = "LiteLLM_SpendLogs"
CELL_CHARS_MAX = 2**31 - 1
OPERATIONS = (  # by what is in call_type
    ("embedding", Operation.EMBEDDINGS, "/v1/embeddings"),
    ("text_completion", Operation.TEXT_COMPLETION, "/v1/completions"),
    ("anthropic_messages", Operation.CHAT, "/v1/messages"),
    ("responses", Operation.CHAT, "/v1/responses"),
    ("completion", Operation.CHAT, CHAT),
    ("generate_content", Operation.CHAT, CHAT),
)
KEPT = ("team_id", "organization_id", "api_key", "spend", "api_base", "model_group",
        "custom_llm_provider", "cache_hit", "request_tags", "agent_id")  # fmt: skip

Json = dict[str, Any]


def open_source(source: str, table: str | None) -> Source:
    """A file, or a URL of PostgreSQL."""
    if is_url(source):
        return table_source(source, table or TABLE, _made)
    file = opened(source)
    if source.removesuffix(".gz").removesuffix(".zst").endswith(".csv"):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        return Source(None, _csv(text), text.close, "line")
    return Source(None, _lines(file), file.close, "line")


def _lines(file: BinaryIO) -> Iterator[Sourced | Fault]:
    for place, line in lines_of(file):
        try:
            yield _sourced(place, msgspec.json.decode(line, type=Json))
        except FAULTS as exc:
            yield unread(place, exc, line, Json)


def _csv(file: TextIO) -> Iterator[Sourced | Fault]:
    csv.field_size_limit(CELL_CHARS_MAX)
    reader = csv.reader(file)
    names: list[str] = []
    before = 0  # lines: a cell may have several
    try:
        for cells in reader:
            place, before = before + 1, reader.line_num
            if names and cells:
                yield _sourced(place, dict(zip_longest(names, cells[: len(names)])))
            names = names or cells  # a line may be blank
    except (csv.Error, UnicodeDecodeError) as exc:
        yield Fault(before + 1, f"the CSV cannot be read on: {exc}")


def _sourced(place: int, row: Json) -> Sourced | Fault:
    try:
        return Sourced(place, _made(row))
    except FAULTS as exc:
        return fault(place, exc)


def _made(row: Json) -> Any:
    request_id = row.get("request_id")
    if not request_id:
        raise ValueError("it has no request_id")
    operation, endpoint = _asked(str(row.get("call_type") or "completion"))
    created_at = moment(row.get("startTime"), "startTime")
    first = row.get("completionStartTime") or None
    first_at = moment(first, "completionStartTime") if first else None
    end = moment(row["endTime"], "endTime") if row.get("endTime") else created_at
    metadata = _json(row.get("metadata"))
    metadata = metadata if isinstance(metadata, dict) else {}
    error = metadata.get("error_information") or {}
    has_failed = row.get("status") == "failure" or bool(error)
    response = _json(row.get("response"))
    body, input_text = _request(row)
    outputs = _outputs(response) if isinstance(response, dict) else ()
    return made(
        KIND,
        str(request_id),
        created_at=created_at,
        body=body,
        response_body=msgspec.json.encode(response) if response else b"",
        input_text=input_text,
        operation=operation,
        endpoint=endpoint,
        status=Status.FAILED if has_failed else Status.COMPLETED,
        http_status=_status(error) if has_failed else 200,
        error_type="upstream_error" if has_failed else None,
        error_message=_error(error) if has_failed else None,
        request_model=row.get("model_group") or row.get("model") or None,
        response_model=row.get("model") or None,
        latency_ms=max(end - created_at, 0),
        first_token_at=first_at if first_at != end else None,
        ttft_ms=float(first_at - created_at) if first_at and created_at <= first_at < end else None,
        stream=bool(first_at and first_at < end),
        input_tokens=_count(row, "prompt_tokens"),
        output_tokens=_count(row, "completion_tokens"),
        user_id=row.get("end_user") or row.get("user") or None,
        conversation_id=row.get("session_id") or None,
        finish_reason=outputs[0].finish_reason if outputs else None,
        outputs=outputs,
        metadata={
            name: value for name in KEPT if (value := _json(row.get(name))) not in (None, "", [])
        },
    )


def _asked(call_type: str) -> tuple[Operation, str]:
    for word, operation, endpoint in OPERATIONS:
        if word in call_type:
            return operation, endpoint
    raise ValueError(f"its call_type, {shown(call_type)}, is nothing that a box records")


def _json(value: Any) -> Any:
    """JSON that a file has as a text."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return value
    return value


def _count(row: Json, name: str) -> int | None:
    found = number(row.get(name), name)
    return None if found is None else int(found)


def _request(row: Json) -> tuple[bytes, str | None]:
    """The request that it was, as far as it is there; and its texts."""
    sent = _json(row.get("proxy_server_request"))
    messages = _json(row.get("messages"))
    if isinstance(sent, dict) and isinstance(sent.get("body"), dict):
        sent = sent["body"]
    if isinstance(sent, dict) and ("messages" in sent or "input" in sent or "prompt" in sent):
        given = sent.get("messages") or sent.get("input") or sent.get("prompt")
        return msgspec.json.encode(sent), _texts(given)
    if isinstance(messages, str) and messages:
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, list) and messages:
        return chat_body(row.get("model"), messages), _texts(messages)
    return b"", None


def _texts(given: Any) -> str | None:
    if isinstance(given, str):
        return given
    found = [
        _text(each["content"] if isinstance(each, dict) and "content" in each else each)
        for each in (given if isinstance(given, list) else ())
    ]
    return "\n".join(text for text in found if text) or None


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _outputs(response: Json) -> tuple[Output, ...]:
    choices = response.get("choices")
    if isinstance(choices, list):
        return tuple(
            _output(place, choice) for place, choice in enumerate(choices)
            if isinstance(choice, dict)
        )  # fmt: skip
    items = response.get("output") or response.get("content")  # of a response; of a message
    if not isinstance(items, list):
        return ()
    inner = chain.from_iterable(
        item.get("content") or () if item.get("type") == "message" else (item,)
        for item in items
        if isinstance(item, dict)
    )
    texts = [part["text"] for part in inner if isinstance(part, dict) and "text" in part]
    return (Output(choice_index=0, output_text="".join(map(str, texts)), finish_reason="stop"),)


def _output(place: int, choice: Json) -> Output:
    message = choice.get("message") or choice.get("delta") or {}
    calls = message.get("tool_calls")
    return Output(
        choice_index=place,
        output_text=str(message.get("content") or choice.get("text") or ""),
        reasoning=message.get("reasoning_content") or None,
        tool_calls=msgspec.json.encode(calls).decode() if calls else None,
        finish_reason=choice.get("finish_reason") or None,
    )


def _status(error: Any) -> int:
    code = str(error.get("error_code") or "") if isinstance(error, dict) else ""
    return int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500


def _error(error: Any) -> str | None:
    if not isinstance(error, dict):
        return str(error) or None
    found = (error.get("error_class"), error.get("error_message"))
    return ": ".join(str(part) for part in found if part) or None
