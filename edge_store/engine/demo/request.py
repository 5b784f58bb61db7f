"""What is asked of the demo engine: OpenAI's and SGLang's protocols, read into one ``Request``.

Decoding is validation: a value of a wrong type is refused with its path.
"""

import time
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Annotated, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta, Raw, Struct

from edge_store.errors import InvalidRequest

__all__ = [
    "ABSENT",
    "TOKEN_CHARS",
    "Form",
    "Function",
    "FunctionName",
    "Limit",
    "Order",
    "Request",
    "Tool",
    "chosen_tool",
    "read_chat",
    "read_completion",
    "read_generate",
    "token_count",
]

TOKEN_CHARS = 4  # the demo tokenizer: a token is the next four characters
OUTPUTS_MAX = 4096
ABSENT = Raw(b"null")  # msgspec takes nothing but null for `Raw | None`

Limit = Annotated[int, Meta(ge=0)]
Choices = Annotated[int, Meta(ge=1, le=128)]


class Form(Struct, frozen=True):
    """The shape that an answer must have."""

    kind: Literal["json", "schema", "regex"]
    source: bytes | str = b""  # the schema as JSON text, or the expression


class Function(Struct):
    name: str
    parameters: Raw = ABSENT


class Tool(Struct):
    function: Function
    type: str = "function"


class FunctionName(Struct):
    name: str


class ToolChoice(Struct):
    function: FunctionName


class Order(Struct, frozen=True, kw_only=True):
    """One output to be made."""

    prompt: str
    said: str  # what the user said last: where markers and names of tools are looked for
    prompt_tokens: int
    choice: int = 0
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    form: Form | None = None
    tool: Function | None = None


class Request(Struct, frozen=True, kw_only=True):
    """All outputs of one request, in the order of their index."""

    rid: str
    orders: list[Order]
    is_stream: bool
    wants_usage: bool = False
    started_monotonic: float = msgspec.field(default_factory=time.monotonic)
    is_list: bool = False  # /generate answers with a list


class TextPart(Struct):
    text: str | None = None


class Message(Struct):
    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""


class SchemaFormat(Struct):
    schema: Raw = ABSENT


class ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class StreamOptions(Struct):
    include_usage: bool | None = None


class OpenAIBody(Struct, kw_only=True):
    """What chats and completions share."""

    model: str | None = None
    rid: str | None = None
    n: Choices | None = None
    max_tokens: Limit | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    ebnf: str | None = None


class ChatBody(OpenAIBody, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None


class CompletionBody(OpenAIBody, kw_only=True):
    prompt: str | list[str | int | list[int]]
    json_schema: str | None = None


class SamplingParams(Struct):
    n: Choices | None = None
    max_new_tokens: Limit | None = None
    stop: str | list[str] | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None


class GenerateBody(Struct):
    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    sampling_params: SamplingParams | list[SamplingParams] | None = None
    rid: str | list[str] | None = None
    stream: bool | None = None


decode_chat = msgspec.json.Decoder(ChatBody).decode
decode_completion = msgspec.json.Decoder(CompletionBody).decode
decode_generate = msgspec.json.Decoder(GenerateBody).decode


def token_count(text: str) -> int:
    """How many tokens the demo tokenizer makes of a text."""
    return -(-len(text) // TOKEN_CHARS)


def read_chat(body: bytes) -> Request:
    """Read POST /v1/chat/completions. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_chat(body)
    messages = asked.messages
    prompt = "\n".join([f"{message.role}: {message.text()}" for message in messages])
    said = next((m.text() for m in reversed(messages) if m.role == "user"), messages[-1].text())
    tool = _tool(asked, said) if asked.tools else None
    if not asked.tools and isinstance(asked.tool_choice, ToolChoice):
        raise InvalidRequest(
            "`tool_choice` names a function, but there are no `tools`", param="tool_choice"
        )
    limit = asked.max_completion_tokens
    order = Order(
        prompt=prompt,
        said=said,
        prompt_tokens=token_count(prompt),
        max_tokens=asked.max_tokens if limit is None else limit,
        stops=_stops(asked.stop),
        form=None if tool else _openai_form(asked),
        tool=tool,
    )
    return _openai_request(asked, [order])


def _tool(asked: ChatBody, said: str) -> Function | None:
    """The function to call, if one is to be called."""
    functions = [tool.function for tool in asked.tools or ()]
    choice = asked.tool_choice
    named = choice.function if isinstance(choice, ToolChoice) else choice
    # Once a tool has answered, the turn is ours: calling it again would never end.
    return chosen_tool(functions, named, said, is_users=asked.messages[-1].role == "user")


def chosen_tool(
    functions: list[Function], choice: str | FunctionName | None, said: str, *, is_users: bool
) -> Function | None:
    """The function that ``choice`` names or requires; else one that the user, whose turn it must
    be, speaks of. Raises ``InvalidRequest``.
    """
    if isinstance(choice, FunctionName):
        named = next((f for f in functions if f.name == choice.name), None)
        if named is None:
            raise InvalidRequest(
                f"`tool_choice` names {choice.name!r}, which is not among `tools`",
                param="tool_choice",
            )
        return named
    if choice == "none" or not functions:
        return None
    mentioned = next((f for f in functions if f.name in said), None)
    if choice == "required":
        return mentioned or functions[0]
    return mentioned if is_users else None


def read_completion(body: bytes) -> Request:
    """Read POST /v1/completions. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_completion(body)
    form = _openai_form(asked)
    if asked.json_schema is not None:
        if form is not None:
            raise InvalidRequest(
                "only one of `json_schema` and another format may be given", param="json_schema"
            )
        form = Form("schema", asked.json_schema)
    orders = [
        Order(
            prompt=text,
            said=text,
            prompt_tokens=tokens,
            max_tokens=asked.max_tokens,
            stops=_stops(asked.stop),
            form=form,
        )
        for text, tokens in _prompts(asked.prompt, "prompt")
    ]
    return _openai_request(asked, orders)


def read_generate(body: bytes) -> Request:
    """Read POST /generate. Raises ``InvalidRequest`` or ``msgspec.DecodeError``."""
    asked = decode_generate(body)
    given = asked.text if asked.text is not None else asked.input_ids
    if given is None:
        raise InvalidRequest("`text` or `input_ids` is required", param="text")
    prompts = _prompts(given, "text" if asked.text is not None else "input_ids")
    params = asked.sampling_params or SamplingParams()
    each = params if isinstance(params, list) else list(repeat(params, len(prompts)))
    if len(each) != len(prompts):
        raise InvalidRequest(
            f"`sampling_params` has {len(each)} entries for {len(prompts)} inputs",
            param="sampling_params",
        )
    orders: list[Order] = []
    for (text, tokens), sampling in zip(prompts, each, strict=True):
        order = Order(
            prompt=text,
            said=text,
            prompt_tokens=tokens,
            max_tokens=sampling.max_new_tokens,
            stops=_stops(sampling.stop),
            form=_form(sampling.json_schema, sampling.regex, sampling.ebnf),
        )
        orders.extend(_copies(order, sampling.n))
    rid = asked.rid[0] if isinstance(asked.rid, list) and asked.rid else asked.rid
    return Request(
        rid=rid if isinstance(rid, str) and rid else uuid4().hex,
        orders=_bounded(orders),
        is_stream=bool(asked.stream),
        is_list=len(orders) > 1 or isinstance(asked.text, list) or _is_nested(asked.input_ids),
    )


def _openai_request(asked: OpenAIBody, orders: list[Order]) -> Request:
    if asked.n is not None and asked.n > 1:
        orders = list(chain.from_iterable(_copies(order, asked.n) for order in orders))
    options = asked.stream_options
    return Request(
        rid=asked.rid or uuid4().hex,
        orders=_bounded(orders),
        is_stream=bool(asked.stream),
        wants_usage=options is not None and bool(options.include_usage),
    )


def _copies(order: Order, choices: int | None) -> list[Order]:
    replace = msgspec.structs.replace
    return [replace(order, choice=choice) if choice else order for choice in range(choices or 1)]


def _bounded(orders: list[Order]) -> list[Order]:
    if len(orders) > OUTPUTS_MAX:
        raise InvalidRequest(
            f"{len(orders)} outputs are asked for; {OUTPUTS_MAX} is the most", param="n"
        )
    return orders


def _prompts(given: str | Sequence[str | int | list[int]], name: str) -> list[tuple[str, int]]:
    """Each prompt with its count of tokens."""
    if isinstance(given, str):
        return [(given, token_count(given))]
    if not given:
        raise InvalidRequest(f"`{name}` is empty", param=name)
    if all(isinstance(item, int) for item in given):
        return [_from_ids(given)]
    prompts = []
    for item in given:
        if isinstance(item, int):
            raise InvalidRequest(f"`{name}` mixes token ids with prompts", param=name)
        prompts.append((item, token_count(item)) if isinstance(item, str) else _from_ids(item))
    return prompts


def _from_ids(ids: Sequence[str | int | list[int]]) -> tuple[str, int]:
    return msgspec.json.encode(ids).decode(), len(ids)


def _is_nested(ids: list[int | list[int]] | None) -> bool:
    return bool(ids and isinstance(ids[0], list))


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


def _openai_form(asked: OpenAIBody) -> Form | None:
    wanted = asked.response_format
    if wanted is None or wanted.type == "text":
        return _form(None, asked.regex, asked.ebnf)
    if asked.regex is not None or asked.ebnf is not None:
        raise InvalidRequest(
            "`response_format` and a grammar cannot both be given", param="response_format"
        )
    if wanted.type == "json_object":
        return Form("json")
    schema = wanted.json_schema.schema if wanted.json_schema else ABSENT
    if schema == ABSENT:
        raise InvalidRequest(
            "`response_format.json_schema.schema` is required",
            param="response_format.json_schema.schema",
        )
    return Form("schema", bytes(schema))


def _form(schema: str | None, regex: str | None, ebnf: str | None) -> Form | None:
    if schema is None and regex is None and ebnf is None:
        return None
    if ebnf is not None:
        raise InvalidRequest("the demo engine takes no `ebnf`", param="ebnf")
    if schema is not None and regex is not None:
        raise InvalidRequest(
            "only one of `json_schema` and `regex` may be given", param="json_schema"
        )
    return Form("regex", regex) if regex is not None else Form("schema", schema or "")
