"""Changes one place in a JSON document: what a fuzzer does to a body that is whole."""

import json
import random
from typing import Any

__all__ = ["LEAVES", "change_some"]

LEAVES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 1.5, -0.0, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 1e308),
    *("", " ", "x", "\ud800", "\x00", "é", "null", "1", "stop", "length", "abort", "tool_calls"),
    *("json_object", "json_schema", "object", "^(a+)+$", "[DONE]", float("nan"), float("inf")),
    *([], {}, [[]], [{}], {"": None}, {"message": "boom", "code": 500}, {"type": "stop"}),
)
NAMES = (
    *("index", "choices", "delta", "message", "content", "text", "finish_reason", "usage", "type"),
    *("error", "model", "n", "stream", "prompt", "messages", "role", "tool_calls", "function"),
    *("name", "arguments", "id", "rid", "metadata", "user", "response_format", "schema", "$ref"),
    *("meta_info", "sampling_params", "output_ids", "input_ids", "prompt_tokens", "done", "system"),
    *("content_block", "format", "options", "response", "thinking", "embedding", "data", "input"),
)
DEPTH = 1001  # one more than SQLite reads


def change(value: Any, random_: random.Random) -> Any:
    """The same JSON value with one place in it changed."""
    if random_.random() < 0.85:
        if isinstance(value, dict) and value:
            return change_object(value, random_)
        if isinstance(value, list) and value:
            return change_array(value, random_)
    if random_.random() < 0.03:
        return json.loads("[" * (DEPTH // 2) + "]" * (DEPTH // 2))
    return random_.choice(LEAVES)


def change_object(value: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    name = random_.choice(list(value))
    match random_.randrange(6):
        case 0:
            return {k: v for k, v in value.items() if k != name}
        case 1:
            return {**value, random_.choice(NAMES): random_.choice(LEAVES)}
        case 2:
            return {**value, random_.choice(NAMES): value[name]}
        case _:
            return {**value, name: change(value[name], random_)}


def change_array(value: list[Any], random_: random.Random) -> list[Any]:
    place = random_.randrange(len(value))
    match random_.randrange(5):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return [*value, random_.choice([value[place], *LEAVES])]
        case _:
            return [*value[:place], change(value[place], random_), *value[place + 1 :]]


def change_some(document: bytes, random_: random.Random) -> bytes | None:
    """A whole JSON text with one place in it changed; None if it is no JSON."""
    try:
        value = change(json.loads(document), random_)
        is_ascii = random_.random() < 0.8
        return json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        return None
