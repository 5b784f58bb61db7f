"""What is asked of ``/v1/responses``, decoded. Decoding is validation: what this box cannot do is
refused with its path, never ignored.

Accepted without effect are hints to a vendor's service that change no answer: ``service_tier``,
``prompt_cache_key``, ``safety_identifier``, ``stream_options.include_obfuscation``.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edge_store.errors import InvalidRequest
from edge_store.faults import UNFIT, kind_of, refusal_of
from edge_store.recorder.transcript.request import require_metadata
from edge_store.redaction import WHOLE

__all__ = [
    "Ask",
    "FunctionCall",
    "FunctionCallOutput",
    "InputImage",
    "InputText",
    "Item",
    "Message",
    "OutputText",
    "Reasoning",
    "Refusal",
    "converted",
    "decoded",
    "fault",
    "left_of",
    "read_ask",
    "require_calls",
    "typed_items",
]

T = TypeVar("T")

ITEMS_MAX = 2048  # of one request
FLAGS = ("background", "stream", "store")  # that are looked at when it is shown

Metadata = dict[str, str]


class InputText(Struct, tag="input_text", tag_field="type"):
    text: str


class InputImage(Struct, tag="input_image", tag_field="type"):
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: str | None = None


class OutputText(Struct, tag="output_text", tag_field="type"):
    text: str


class Refusal(Struct, tag="refusal", tag_field="type"):
    refusal: str


class ReasoningText(Struct, tag="reasoning_text", tag_field="type"):
    text: str


class SummaryText(Struct, tag="summary_text", tag_field="type"):
    text: str


class Message(Struct, tag="message", tag_field="type"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputImage | OutputText | Refusal]


class FunctionCall(Struct, tag="function_call", tag_field="type"):
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Struct, tag="function_call_output", tag_field="type"):
    call_id: str
    output: str | list[InputText | InputImage]


class Reasoning(Struct, tag="reasoning", tag_field="type"):
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


Item = Message | FunctionCall | FunctionCallOutput | Reasoning


class FunctionTool(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class NamedFunction(Struct, tag="function", tag_field="type", forbid_unknown_fields=True):
    name: str


class TextFormat(Struct, tag="text", tag_field="type", forbid_unknown_fields=True):
    pass


class ObjectFormat(Struct, tag="json_object", tag_field="type", forbid_unknown_fields=True):
    pass


class SchemaFormat(Struct, tag="json_schema", tag_field="type", forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, forbid_unknown_fields=True):
    format: TextFormat | ObjectFormat | SchemaFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningConfig(Struct, forbid_unknown_fields=True):
    effort: str | None = None
    summary: Literal["auto"] | None = None


class ConversationRef(Struct, forbid_unknown_fields=True):
    id: str


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class Ask(Struct, kw_only=True, forbid_unknown_fields=True):
    """A response that is asked for."""

    model: str
    input: str | Annotated[list[Item], Meta(max_length=ITEMS_MAX)] = ""
    instructions: str | None = None
    tools: list[FunctionTool] = []
    tool_choice: Literal["none", "auto", "required"] | NamedFunction = "auto"
    parallel_tool_calls: bool | None = None
    text: TextConfig = msgspec.field(default_factory=TextConfig)
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    metadata: Metadata = {}
    store: bool = True
    stream: bool = False
    background: bool = False
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None
    user: str | None = None
    truncation: Literal["disabled"] = "disabled"
    include: list[Literal["reasoning.encrypted_content"]] = []
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    stream_options: StreamOptions | None = None

    @property
    def items(self) -> list[Item]:
        """The input; a text alone is a message of the user."""
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)] if self.input else []
        return self.input

    @property
    def conversation_id(self) -> str | None:
        """The conversation it belongs to."""
        if isinstance(self.conversation, ConversationRef):
            return self.conversation.id
        return self.conversation


def fault(message: str, param: str) -> InvalidRequest:
    """The refusal of what is at the path ``param``."""
    return InvalidRequest(f"`{param}`: {message}", param=param)


def decoded(body: bytes) -> dict[str, Any]:
    """The object in a body, without its nulls: they mean what absence means.

    Raises:
        InvalidRequest: it is no object.
    """
    try:
        value = msgspec.json.decode(body)
    except UNFIT as exc:
        raise refusal_of(exc, body=body) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be an object, not {kind_of(value)}")
    return {name: field for name, field in value.items() if field is not None}


def converted(value: Any, kind: type[T]) -> T:
    """``value`` as ``kind``.

    Raises:
        InvalidRequest: with the path of what does not fit.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise refusal_of(exc, kind) from exc


def typed_items(items: Any) -> Any:
    """Input items with the ``type`` that a message may leave out."""
    if not isinstance(items, list):
        return items
    return [
        {"type": "message", **item} if isinstance(item, dict) and "role" in item else item
        for item in items
    ]


def read_ask(body: bytes) -> Ask:
    """What a body of ``POST /v1/responses`` asks for.

    Raises:
        InvalidRequest: with the path of the fault.
    """
    given = decoded(body)
    if "input" in given:
        given["input"] = typed_items(given["input"])
    ask = converted(given, Ask)
    require_metadata(ask.metadata)
    require_images(ask.items, "input")
    if ask.conversation is not None and ask.previous_response_id is not None:
        raise fault("cannot be given together with `conversation`", "previous_response_id")
    if not ask.store and ask.background:
        raise fault("a response in the background must be stored", "store")
    if not ask.store and ask.conversation is not None:
        raise fault("a response in a conversation must be stored", "store")
    if isinstance(ask.tool_choice, NamedFunction):
        names = {tool.name for tool in ask.tools}
        if ask.tool_choice.name not in names:
            raise fault(f"{ask.tool_choice.name!r} is not among `tools`", "tool_choice.name")
    return ask


def require_calls(context: Iterable[Item], items: Sequence[Item]) -> None:
    """Raises ``InvalidRequest`` for the output of a call that is nowhere before it."""
    called = {item.call_id for item in context if isinstance(item, FunctionCall)}
    for number, item in enumerate(items):
        if isinstance(item, FunctionCall):
            called.add(item.call_id)
        elif isinstance(item, FunctionCallOutput) and item.call_id not in called:
            raise fault(  # in OpenAI's words, which clients look for
                f"No tool call found for function call output with call_id {item.call_id}.",
                f"input[{number}].call_id",
            )


def left_of(redacted: bytes | None, ask: Ask) -> bytes:
    """What is written of a body of which redaction leaves this: if it asks for nothing any more, or
    for something else, that there was one.
    """
    try:
        again = read_ask(redacted or b"")
    except InvalidRequest:
        again = Ask(model=WHOLE)
    flags = {name: getattr(ask, name) for name in FLAGS}
    if redacted and flags == {name: getattr(again, name) for name in FLAGS}:
        return redacted
    return msgspec.json.encode({"model": WHOLE, "input": WHOLE, **flags})


def require_images(items: list[Item], path: str) -> None:
    """Raises ``InvalidRequest`` for an image that is not given by its address or its data."""
    for number, item in enumerate(items):
        name, parts = "content", getattr(item, "content", None)
        if isinstance(item, FunctionCallOutput):
            name, parts = "output", item.output
        for place, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, InputImage) and not part.image_url:
                where = f"{path}[{number}].{name}[{place}]"
                if part.file_id is not None:
                    raise fault("uploaded files are not supported here", f"{where}.file_id")
                raise fault("is needed", f"{where}.image_url")
