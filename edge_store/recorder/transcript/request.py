"""What the dialects share in reading a request."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.faults import kind_of, type_name
from edge_store.recorder.transcript import Form

__all__ = [
    "caller_rid",
    "constraints_of",
    "conversation",
    "field",
    "json_text",
    "params_of",
    "require_metadata",
    "text_of",
    "texts_of",
    "tools_of",
]

T = TypeVar("T")

ANY_JSON = "$$ANY$$"  # sglang 0.5: constrained/base_grammar_backend.py
# platform.openai.com/docs/api-reference: "Set of 16 key-value pairs …"
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512


def field(body: Mapping[str, Any], name: str, kind: type[T], default: T, *, within: str = "") -> T:
    """``body[name]`` if it has that type; ``default`` if it is absent or null. ``within`` is where
    in the request ``body`` is, as in ``sampling_params``.

    Raises:
        InvalidRequest: it is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        path = f"{within}.{name}" if within else name
        problem = f"`{path}` must be {type_name(kind)}, not {kind_of(value)}"
        raise InvalidRequest(problem, param=path)
    return value


def caller_rid(body: Mapping[str, Any]) -> str | None:
    """The caller's own id, as text; of a list of inputs it may be a list."""
    rid = body.get("rid")
    return json_text(rid) if isinstance(rid, list) else field(body, "rid", str, "") or None


def json_text(value: Any) -> str | None:
    """JSON text of a decoded value; None for null."""
    return None if value is None else msgspec.json.encode(value).decode()


def params_of(body: Mapping[str, Any], content: Collection[str]) -> str:
    """The request without its content: sampling parameters, formats, options."""
    return msgspec.json.encode({k: v for k, v in body.items() if k not in content}).decode()


def require_metadata(metadata: Mapping[str, Any]) -> None:
    """Raises ``InvalidRequest`` where OpenAI's API would refuse it."""
    if len(metadata) > METADATA_PAIRS_MAX:
        problem = f"`metadata` has {len(metadata)} pairs; {METADATA_PAIRS_MAX} are allowed"
        raise InvalidRequest(problem, param="metadata")
    for key, value in metadata.items():
        path = f"metadata.{key[:METADATA_KEY_CHARS_MAX]}"
        if len(key) > METADATA_KEY_CHARS_MAX:
            problem = f"has {len(key)} characters in its key; {METADATA_KEY_CHARS_MAX} are allowed"
        elif not isinstance(value, str):
            problem = f"must be a string, not {kind_of(value)}"
        elif len(value) > METADATA_VALUE_CHARS_MAX:
            problem = f"has {len(value)} characters; {METADATA_VALUE_CHARS_MAX} are allowed"
        else:
            continue
        raise InvalidRequest(f"`{path}` {problem}", param=path)


def constraints_of(given: Mapping[str, Any], form: Form | None = None) -> tuple[Form, ...]:
    """``form`` with SGLang's own ``json_schema``, ``regex`` and ``ebnf``; none if nothing is asked.

    What has another type than the engine takes is the engine's to refuse.
    """
    # To SGLang an empty one is none.
    schema, regex, ebnf = (given.get(name) or None for name in ("json_schema", "regex", "ebnf"))
    if form is None and schema is None and regex is None and ebnf is None:
        return ()
    if form is None or not form.is_json:
        form = Form(
            is_json=schema is not None,
            json_schema=schema if isinstance(schema, str) else json_text(schema),
        )
        if form.json_schema == ANY_JSON:
            form = Form(is_json=True)
    return (
        Form(
            is_json=form.is_json,
            json_schema=form.json_schema,
            regex=regex if isinstance(regex, str) else None,
            ebnf=ebnf if isinstance(ebnf, str) else None,
        ),
    )


def tools_of(body: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The tools that may be called, each with the JSON Schema of its arguments: OpenAI's form, and
    Anthropic's.
    """
    tools = body.get("tools")
    found = []
    for tool in tools if isinstance(tools, list) else ():
        said = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(said, dict) and isinstance(said.get("name"), str):
            found.append((said["name"], said.get("parameters", said.get("input_schema"))))
    return tuple(found)


def text_of(content: Any) -> str:
    """The text in a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (p.get("text") for p in content if isinstance(p, dict))
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


def texts_of(inputs: list[Any]) -> str:
    """A line for each input: its text, or its token ids."""
    return "\n".join(i if isinstance(i, str) else str(json_text(i)) for i in inputs)


def conversation(messages: Any) -> str:
    """The text of the messages: of one alone as it is, of more with their roles.

    Raises:
        InvalidRequest: it is no list of objects.
    """
    if not isinstance(messages, list):
        raise InvalidRequest("`messages` must be a list of objects", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            path = f"messages[{index}]"
            raise InvalidRequest(f"`{path}` must be an object", param=path)
    if len(messages) == 1:
        return text_of(messages[0].get("content"))
    return "\n".join(f"{m.get('role')}: {text_of(m.get('content'))}" for m in messages)
