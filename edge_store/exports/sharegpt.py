"""ShareGPT's format, with the names that trainers read (LLaMA-Factory, Axolotl): ``conversations``
of ``from`` and ``value``, with ``function_call`` and ``observation`` where tools were called.
"""

from typing import Any

import msgspec

from edge_store.exports.chats import Chat, Encode, open_chats
from edge_store.exports.kinds import Export, Job, Skipped
from edge_store.exports.mark import Mark

__all__ = ["open_export"]

FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}

Json = dict[str, Any]


def open_export(job: Job, mark: Mark) -> Export:
    """A file of conversations."""
    return open_chats(job, mark, _line)


def _line(chat: Chat) -> bytes:
    turns = [turn for message in [*chat.messages, chat.answer] for turn in _turns(message)]
    line: Json = {"id": chat.recorded.result.id, "conversations": turns}
    if chat.tools:
        line["tools"] = Encode.encode([tool["function"] for tool in chat.tools]).decode()
    return Encode.encode(line) + b"\n"


def _turns(message: Json) -> list[Json]:
    content, calls = message.get("content"), message.get("tool_calls", ())
    if isinstance(content, list):
        raise Skipped("a message has an image, audio or a file: ShareGPT holds texts")
    turns = []
    if content or not calls:
        turns.append({"from": FROM[message["role"]], "value": content or ""})
    turns += [{"from": "function_call", "value": _call(call["function"])} for call in calls]
    return turns


def _call(function: Json) -> str:
    try:
        arguments = msgspec.Raw(function["arguments"].encode())
        msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        arguments = function["arguments"]
    return Encode.encode({"name": function["name"], "arguments": arguments}).decode()
