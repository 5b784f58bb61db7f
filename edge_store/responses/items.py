"""Items: as the API shows them, each under its id, and as messages of a chat.

The ids of a response's items say which response they are of and which place they have there, so
that none is stored: ``msg_<result id>_i0`` is its first input, ``_o0`` its first output.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from edge_store.responses.ask import (
    FunctionCall,
    FunctionCallOutput,
    InputImage,
    InputText,
    Item,
    Message,
    OutputText,
    Reasoning,
    Refusal,
)

__all__ = ["PREFIXES", "call_id_of", "chat_messages", "input_items", "item_json", "owner_of"]

# By the type of the item, as OpenAI's ids begin.
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
UUID_CHARS = 36


def owner_of(item_id: str) -> str | None:
    """The result that an item's id says it is of; None of an item that was added by itself."""
    _, _, rest = item_id.partition("_")
    is_owned = len(rest) > UUID_CHARS and rest[UUID_CHARS] == "_"
    return rest[:UUID_CHARS] if is_owned else None


def call_id_of(result_id: str, index: int) -> str:
    """The name of a call that the engine gave none."""
    return f"call_{result_id}_{index}"


def input_items(items: Iterable[Item], result_id: str) -> list[dict[str, Any]]:
    """A response's input as the API lists it."""
    return [item_json(item, f"{result_id}_i{place}") for place, item in enumerate(items)]


def item_json(item: Item, suffix: str) -> dict[str, Any]:
    """One item as the API shows it; its id is the prefix of its type and ``suffix``."""
    shown = msgspec.to_builtins(item)
    shown = {name: value for name, value in shown.items() if value is not None}
    shown = {"id": f"{PREFIXES[shown['type']]}_{suffix}", "status": "completed", **shown}
    if isinstance(item, Reasoning):
        del shown["status"]
    if isinstance(item, Message):
        content = item.content
        kind = OutputText if item.role == "assistant" else InputText
        parts = [kind(text=content)] if isinstance(content, str) else content
        shown["content"] = [_part_json(part) for part in parts]
    elif isinstance(item, FunctionCallOutput) and not isinstance(item.output, str):
        shown["output"] = [_part_json(part) for part in item.output]
    return shown


def _part_json(part: Any) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(part)
    if isinstance(part, OutputText):
        shown.update(annotations=[], logprobs=[])
    elif isinstance(part, InputImage):
        shown["detail"] = part.detail or "auto"
    return shown


def chat_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The items as a chat's messages. A turn's text and its calls are one message there; reasoning
    stays out: chat has no agreed place for it.
    """
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case Message():
                messages.append(_message(item))
            case FunctionCall():
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                messages[-1].setdefault("tool_calls", []).append(call)
            case FunctionCallOutput():
                content = _content(item.output)
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
    return messages


def _message(item: Message) -> dict[str, Any]:
    # templates of open models know no developer
    role = "system" if item.role == "developer" else item.role
    if item.role == "assistant" and not isinstance(item.content, str):
        return {"role": role, "content": "".join(_text(part) for part in item.content)}
    return {"role": role, "content": _content(item.content)}


def _content(content: str | Sequence[Any]) -> str | list[dict[str, Any]]:
    """Text alone as a text: not every engine takes parts."""
    if isinstance(content, str):
        return content
    if not any(isinstance(part, InputImage) for part in content):
        return "\n".join(_text(part) for part in content)
    return [_chat_part(part) for part in content]


def _chat_part(part: Any) -> dict[str, Any]:
    if isinstance(part, InputImage):
        image = {"url": part.image_url, "detail": part.detail or "auto"}
        return {"type": "image_url", "image_url": image}
    return {"type": "text", "text": _text(part)}


def _text(part: Any) -> str:
    return str(part.refusal if isinstance(part, Refusal) else part.text)
