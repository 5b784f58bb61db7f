"""The bodies and answers of the generating routes, as far as they are the same with every engine.

Whatever else a protocol has goes through, so nothing is forbidden here. It is for the document: a
request is read by its dialect.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from edge_store.api.described import Form, Parameter, choice, text
from edge_store.recorder.caller import LEVELS

__all__ = [
    "ERROR",
    "PROTOCOLS",
    "RECORD",
    "TRACE",
    "WAIT",
    "Completion",
    "Listed",
    "Protocol",
    "Waiting",
]

Dict = dict[str, Any]
EVENTS = Form("text/event-stream", {})
LINES = Form("application/x-ndjson", {})
RECORD = choice("x-edge-store-record", LEVELS, "How much is kept: at most what the key may")
WAIT = text(
    "x-edge-store-wait",
    "Hold the end of the answer until its result is in the replica, or for so many seconds",
    pattern="^replicated(; timeout=[1-5]?[0-9])?$",
)
TRACE = text(
    "traceparent",
    "W3C's; its trace id is in the row",
    pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
)
GENERATING = (
    text("Idempotency-Key", "For one answer only", minLength=1, maxLength=255, pattern="^[!-~]+$"),
    choice("Prefer", ("respond-async",), "202 at once, the answer later"),
    RECORD,
    WAIT,
    TRACE,
)
WITH_JSON = (*GENERATING, choice("x-edge-store-json", ("repaired",), "The JSON, not the text"))
Some = Annotated[list[Dict], Meta(min_length=1)]


class ErrorDetail(Struct):
    """``code`` heads a section of docs/operations.md, unless the engine said it."""

    message: str
    type: str
    code: str | int | None = None
    param: str | None = None
    hint: str | None = None


class ErrorBody(Struct):
    error: ErrorDetail


class AnthropicErrorDetail(Struct):
    type: str
    message: str
    code: str | int | None = None
    param: str | None = None
    hint: str | None = None


class AnthropicErrorBody(Struct):
    type: Literal["error"]
    error: AnthropicErrorDetail


class OllamaErrorBody(Struct):
    error: str
    code: str | int | None = None
    param: str | None = None
    hint: str | None = None


class Waiting(Struct, forbid_unknown_fields=True):
    """Of a request that is answered later."""

    object: Literal["result"]
    id: str
    status: Literal["queued", "running", "failed"]
    created_at: str | None = None
    error: Dict | None = None


class Listed(Struct, forbid_unknown_fields=True):
    """A page, as OpenAI has them."""

    object: Literal["list"]
    data: list[Dict]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ChatRequest(Struct):
    messages: Some
    model: str | None = None
    stream: bool | None = None
    metadata: Dict | None = None
    user: str | None = None


class CompletionRequest(Struct):
    prompt: str | list[Any]
    model: str | None = None
    stream: bool | None = None
    user: str | None = None


class EmbeddingRequest(Struct):
    input: str | list[Any]
    model: str | None = None


class GenerateRequest(Struct):
    """One of ``text`` and ``input_ids``."""

    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: Dict | list[Dict] | None = None
    stream: bool | None = None


class MessagesRequest(Struct):
    model: str
    max_tokens: Annotated[int, Meta(ge=0)]
    messages: Some
    system: str | list[Dict] | None = None
    stream: bool | None = None


class OllamaChatRequest(Struct):
    """Streamed unless ``stream`` is false."""

    model: str
    messages: list[Dict] | None = None
    stream: bool | None = None


class OllamaGenerateRequest(Struct):
    """Streamed unless ``stream`` is false."""

    model: str
    prompt: str | None = None
    system: str | None = None
    stream: bool | None = None


class Completion(Struct):
    """Of a chat or a text."""

    id: str
    object: str
    choices: list[Dict]
    model: str
    usage: Dict | None = None


class Embeddings(Struct):
    object: str
    data: list[Dict]


class Generated(Struct):
    text: str
    meta_info: Dict


class AnthropicMessage(Struct):
    id: str
    type: str
    role: str
    content: list[Dict]
    stop_reason: str | None
    usage: Dict


class OllamaLine(Struct):
    model: str
    done: bool
    message: Dict | None = None
    response: str | None = None


class Protocol(NamedTuple):
    """What one generating route takes and gives."""

    says: str
    takes: Any
    gives: tuple[Any, ...]
    error: Any = ErrorBody
    headers: tuple[Parameter, ...] = GENERATING


ERROR = ErrorBody
PROTOCOLS: Mapping[str, Protocol] = {
    "/v1/chat/completions": Protocol(
        "OpenAI's chat", ChatRequest, (Completion, EVENTS), headers=WITH_JSON
    ),
    "/v1/completions": Protocol(
        "OpenAI's completion", CompletionRequest, (Completion, EVENTS), headers=WITH_JSON
    ),
    "/v1/embeddings": Protocol("OpenAI's embeddings", EmbeddingRequest, (Embeddings,)),
    "/generate": Protocol(
        "SGLang's own", GenerateRequest, (Generated | list[Generated], EVENTS), headers=WITH_JSON
    ),
    "/v1/messages": Protocol(
        "Anthropic's messages", MessagesRequest, (AnthropicMessage, EVENTS), AnthropicErrorBody
    ),
    "/api/chat": Protocol("Ollama's chat", OllamaChatRequest, (OllamaLine, LINES), OllamaErrorBody),
    "/api/generate": Protocol(
        "Ollama's generate", OllamaGenerateRequest, (OllamaLine, LINES), OllamaErrorBody
    ),
}
