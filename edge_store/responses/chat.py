"""The chat that a response is: its body for ``/v1/chat/completions``."""

from collections.abc import Sequence
from typing import Any

import msgspec

from edge_store.responses.ask import Ask, Item, NamedFunction, ObjectFormat, SchemaFormat
from edge_store.responses.items import chat_messages

__all__ = ["PATH", "chat_body"]

PATH = "/v1/chat/completions"


def chat_body(ask: Ask, context: Sequence[Item]) -> bytes:
    """``context`` are the items that came before the input."""
    messages = chat_messages([*context, *ask.items])
    if ask.instructions:
        messages.insert(0, {"role": "system", "content": ask.instructions})
    body: dict[str, Any] = {"model": ask.model, "messages": messages}
    if ask.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if ask.tools:
        body["tools"] = [_tool(tool) for tool in ask.tools]
        body["tool_choice"] = _tool_choice(ask)
        if ask.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = ask.parallel_tool_calls
    form = ask.text.format
    if isinstance(form, ObjectFormat):
        body["response_format"] = {"type": "json_object"}
    elif isinstance(form, SchemaFormat):
        schema = {name: value for name, value in _builtins(form).items() if name != "type"}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if ask.reasoning is not None and ask.reasoning.effort is not None:
        body["reasoning_effort"] = ask.reasoning.effort
    # `max_tokens`, not OpenAI's newer name: every engine knows it
    named: dict[str, Any] = {"max_tokens": ask.max_output_tokens, "temperature": ask.temperature}
    named |= {"top_p": ask.top_p, "user": ask.user, "metadata": ask.metadata or None}
    named["store"] = None if ask.store else False
    body.update({name: value for name, value in named.items() if value is not None})
    return msgspec.json.encode(body)


def _builtins(value: msgspec.Struct) -> dict[str, Any]:
    found = msgspec.to_builtins(value)
    return {name: field for name, field in found.items() if field is not None}


def _tool(tool: msgspec.Struct) -> dict[str, Any]:
    function = _builtins(tool)
    del function["type"]
    return {"type": "function", "function": function}


def _tool_choice(ask: Ask) -> Any:
    if isinstance(ask.tool_choice, NamedFunction):
        return {"type": "function", "function": {"name": ask.tool_choice.name}}
    return ask.tool_choice
