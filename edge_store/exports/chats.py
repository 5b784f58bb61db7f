"""A result as a chat: what was said to the model, what it could call, and what it answered; in
OpenAI's words, whichever protocol it came by. What is no whole chat is skipped, with why.
"""

from functools import partial
from typing import Any, NamedTuple

import msgspec

from edge_store.exports.files import FileExport
from edge_store.exports.kinds import Export, Fetched, Job, Skipped
from edge_store.exports.lines import recorded_rows
from edge_store.exports.mark import Mark
from edge_store.exports.pages import wanted
from edge_store.result import Operation, Output, Recorded, Status
from edge_store.sqlite import Connection

__all__ = ["Chat", "Encode", "chat_of", "chat_rows", "open_chats"]

Json = dict[str, Any]
WHOLE = ("stop", "tool_calls", "function_call", "end_turn", "tool_use", "stop_sequence", None)


class Chat(NamedTuple):
    """``answer`` is the message that follows ``messages``."""

    recorded: Recorded
    messages: list[Json]
    tools: list[Json]
    answer: Json


def chat_rows(job: Job, connection: Connection, span: dict[str, Any]) -> Fetched:
    """The results of a span that are wanted, as ``recorded_rows`` gives them."""
    statement = wanted("select_export_results", job.selection)
    return recorded_rows(connection, statement, {**span, **job.selection.values})


def open_chats(job: Job, mark: Mark, encode: Any) -> Export:
    """A file with one line for each chat: ``encode`` of it."""

    def line(row: Any) -> bytes:
        chat = chat_of(row[0])
        try:
            return bytes(encode(chat))
        except RecursionError:  # it could just be read
            raise Skipped("its request is nested too deep") from None

    return FileExport(job, mark, partial(chat_rows, job), line)


Encode = msgspec.json.Encoder()


def chat_of(recorded: Recorded) -> Chat:
    """Raises ``Skipped``: it is not a whole chat with its request."""
    result = recorded.result
    if result.operation is not Operation.CHAT:
        raise Skipped(f"not a chat, but {result.operation.value}")
    if result.status is not Status.COMPLETED:
        raise Skipped(f"its status is {result.status.value}")
    if not result.outputs:
        raise Skipped("it has no answer")
    output = result.outputs[0]
    if output.finish_reason not in WHOLE:
        raise Skipped(f"its finish_reason is {output.finish_reason}")
    if not result.content.request_body:
        raise Skipped("its request is not stored")
    try:
        asked = msgspec.json.decode(result.content.request_body, type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Skipped("its request is no JSON that can be read") from None
    messages = _messages(asked)
    return Chat(recorded, messages, _tools(asked.get("tools")), _answer(output))


def _messages(asked: Json) -> list[Json]:
    given = asked.get("messages", asked.get("input"))
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(messages, list) or not messages:
        raise Skipped("its request has no messages")
    if not all(isinstance(each, dict) for each in messages):
        raise Skipped("its request has no messages")
    if asked.get("previous_response_id") or asked.get("conversation"):
        raise Skipped("what came before is in other responses")
    first = asked.get("system", asked.get("instructions"))
    if isinstance(first, list):
        first = "".join(str(part.get("text", "")) for part in first if isinstance(part, dict))
    before = [{"role": "system", "content": first}] if first else []
    found = [*before, *(_message(each) for each in messages)]
    if found[-1]["role"] not in ("user", "tool"):
        raise Skipped("its last message is not the caller's")
    return found


def _message(given: Json) -> Json:
    """Raises ``Skipped``: it is of a protocol, or of a kind, that has no such message."""
    role, content = given.get("role"), given.get("content")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise Skipped("a message has a role that is no chat's")
    message: Json = {"role": role}
    if isinstance(content, list):
        content = [_part(part) for part in content]
        if all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str | list):
        raise Skipped("a message's content is neither a text nor parts")
    calls = given.get("tool_calls")
    if content is not None or not calls:
        message["content"] = content if content is not None else ""
    if calls and role == "assistant":
        message["tool_calls"] = _calls(calls)
    for name in ("name", "tool_call_id"):
        if isinstance(given.get(name), str):
            message[name] = given[name]
    return message


def _part(part: Any) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("image_url", "input_audio", "file"):
        return dict(part)
    raise Skipped(f"a message has a part that is no chat's: {kind}")


def _calls(calls: Any) -> list[Json]:
    found = []
    for place, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Skipped("a tool call has no function")
        arguments = function.get("arguments", "")
        if not isinstance(arguments, str):  # Ollama's are an object
            arguments = msgspec.json.encode(arguments).decode()
        named = {"name": function["name"], "arguments": arguments}
        name = call.get("id") or f"call_{place}"
        found.append({"id": name, "type": "function", "function": named})
    return found


def _tools(tools: Any) -> list[Json]:
    """Those that are functions, as a chat names them; Anthropic's and the responses' are flat."""
    found = []
    for tool in tools if isinstance(tools, list) else []:
        if not isinstance(tool, dict):
            continue
        if isinstance(tool.get("function"), dict):
            found.append({"type": "function", "function": tool["function"]})
        elif isinstance(tool.get("name"), str):
            schema = tool.get("parameters", tool.get("input_schema"))
            named = {"name": tool["name"], "description": tool.get("description") or ""}
            parameters = {"parameters": schema} if isinstance(schema, dict) else {}
            found.append({"type": "function", "function": named | parameters})
    return found


def _answer(output: Output) -> Json:
    answer: Json = {"role": "assistant"}
    try:
        calls = _calls(msgspec.json.decode(output.tool_calls)) if output.tool_calls else []
    except (msgspec.DecodeError, RecursionError):
        raise Skipped("its tool calls are no JSON that can be read") from None
    if output.output_text or not calls:
        answer["content"] = output.output_text
    if not output.output_text and not calls:
        raise Skipped("its answer is empty")
    if calls:
        answer["tool_calls"] = calls
    return answer
