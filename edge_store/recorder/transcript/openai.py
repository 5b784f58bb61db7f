"""OpenAI's chat completions and completions, plain and streamed.

A stream's end is held from the chunk that completes the last open choice: clients stop reading at
``finish_reason``, so ``[DONE]`` alone would be too late. Open is what has begun and not finished:
not every server heeds ``n``. An error is an end too. Streams are asked for their usage, and the
usage event is taken out again where the caller did not ask for it.
"""

from typing import Any

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.recorder.envelope import Envelope, OpenAIEnvelope
from edge_store.recorder.transcript import Asked, Form, Garbled, Reading, Shape
from edge_store.recorder.transcript.lenient import Tokens, decode, error_status, error_text
from edge_store.recorder.transcript.request import (
    caller_rid,
    constraints_of,
    conversation,
    field,
    json_text,
    params_of,
    require_metadata,
    texts_of,
    tools_of,
)
from edge_store.result import Operation, Output

__all__ = ["ChatDialect", "CompletionDialect", "OpenAIReader"]

CONTENT = frozenset({"model", "messages", "prompt", "rid", "user", "metadata", "stream"})
CHOICES_MAX = 128
DONE = b"[DONE]"


class FunctionPart(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCallPart(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionPart | None = None


class MessagePart(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, from vLLM
    refusal: str | None = None
    tool_calls: list[ToolCallPart] | None = None


class Choice(msgspec.Struct):
    index: int = 0
    message: MessagePart | None = None
    delta: MessagePart | None = None
    text: str | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    cached_tokens: Tokens | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: Tokens | None = None


class Usage(msgspec.Struct):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Answer(msgspec.Struct):
    """A whole body or one chunk of a stream."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


DECODER = msgspec.json.Decoder(Answer)


class Draft:
    """One choice while it grows."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: str | None = None

    def add(self, choice: Choice) -> bool:
        """Take one piece; true if it carried any of the answer itself."""
        part = choice.message or choice.delta or MessagePart(content=choice.text)
        text = part.content or part.refusal
        if text:
            self.text.append(text)
        reasoning = part.reasoning_content or part.reasoning
        if reasoning:
            self.reasoning.append(reasoning)
        for place, call in enumerate(part.tool_calls or ()):
            self._add_call(place if call.index is None else call.index, call)
        self.finish_reason = choice.finish_reason or self.finish_reason
        return bool(text or reasoning or part.tool_calls)

    def _add_call(self, index: int, part: ToolCallPart) -> None:
        call = self.tool_calls.setdefault(
            index, {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.id or call["id"]
        call["type"] = part.type or call["type"]
        if part.function:
            call["function"]["name"] += part.function.name or ""
            call["function"]["arguments"] += part.function.arguments or ""

    def output(self, index: int) -> Output:
        calls = [call for _, call in sorted(self.tool_calls.items())]
        return Output(
            choice_index=index,
            output_text="".join(self.text),
            reasoning="".join(self.reasoning) or None,
            tool_calls=json_text(calls or None),
            finish_reason=self.finish_reason,
        )


class OpenAIReader:
    """Reads both protocols: a choice has a ``message``, a ``delta`` or a ``text``."""

    def __init__(self, choices: int) -> None:
        self._expected = choices
        self._drafts: dict[int, Draft] = {}
        self._id: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._error: str | None = None
        self._error_status: int | None = None
        self._is_complete = False
        self._has_finishes = False  # a choice has ended
        self._is_over = False  # nothing that comes later opens another choice
        self.has_begun = False
        self.is_usage = False

    def body(self, body: bytes) -> None:
        self._take(self._decode(body))
        if not self._drafts and self._error is None:
            raise Garbled("an answer with no choices")
        self._is_complete = self._error is None

    def event(self, data: bytes) -> bool:
        self.is_usage = False
        if data == DONE:
            self._is_over = True
            self._is_complete = bool(self._drafts)  # an end of nothing is no answer
            return True
        answer = self._decode(data)
        self.is_usage = answer.usage is not None and not answer.choices
        self._take(answer)
        self._is_over = self._is_over or self._error is not None
        if not self._has_finishes:
            return self._is_over
        finished = sum(draft.finish_reason is not None for draft in self._drafts.values())
        self._is_complete = self._is_complete or finished >= self._expected
        return self._is_over or 0 < finished == len(self._drafts)

    @staticmethod
    def _decode(data: bytes) -> Answer:
        answer = decode(DECODER, Answer, data)
        assert isinstance(answer, Answer)  # the decoder takes no list
        return answer

    def _take(self, answer: Answer) -> None:
        if answer.error is not None:
            self._error = error_text(answer.error)
            self._error_status = error_status(answer.error)
        self._id = self._id or answer.id
        self._model = answer.model or self._model
        self._usage = answer.usage or self._usage
        for choice in answer.choices or ():
            bound = max(self._expected, CHOICES_MAX)  # a list of prompts may ask for more
            if not 0 <= choice.index < bound:
                raise Garbled(f"choice index {choice.index} is not below {bound}")
            draft = self._drafts.get(choice.index)
            if draft is None:
                draft = self._drafts[choice.index] = Draft()
            self.has_begun = draft.add(choice) or self.has_begun
            self._has_finishes = self._has_finishes or draft.finish_reason is not None

    def reading(self) -> Reading:
        usage = self._usage or Usage()
        prompt = usage.prompt_tokens_details or PromptDetails()
        completion = usage.completion_tokens_details or CompletionDetails()
        return Reading(
            outputs=tuple(draft.output(index) for index, draft in sorted(self._drafts.items())),
            response_id=self._id,
            response_model=self._model,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens=prompt.cached_tokens,
            reasoning_tokens=completion.reasoning_tokens or usage.reasoning_tokens,
            is_complete=self._is_complete,
            error_message=self._error,
            error_status=self._error_status,
        )


def _ask(body: dict[str, Any], operation: Operation, input_text: str, choices: int) -> Asked:
    stream = field(body, "stream", bool, False)
    options = field(body, "stream_options", dict, {})
    wants_usage = bool(options.get("include_usage"))
    splice: tuple[tuple[str, Any], ...] = ()
    if stream and not wants_usage:
        splice = (("stream_options", {**options, "include_usage": True}),)
    form = field(body, "response_format", dict, {})
    schema = form.get("json_schema")
    wanted = Form(
        is_json=form.get("type") in ("json_object", "json_schema"),
        json_schema=json_text(schema.get("schema")) if isinstance(schema, dict) else None,
    )
    return Asked(
        operation=operation,
        model=field(body, "model", str, "") or None,
        stream=stream,
        choices=choices,
        params=params_of(body, CONTENT),
        input_text=input_text,
        user_id=field(body, "user", str, "") or None,
        metadata=json_text(field(body, "metadata", dict, {}) or None),
        is_kept=field(body, "store", bool, True),
        caller_rid=caller_rid(body),
        forms=constraints_of(body, wanted if wanted.is_json else None),
        tools=tools_of(body),
        shape=Shape.CHOICES,
        splice=splice,
        drop_usage=bool(splice),
    )


def _choices(body: dict[str, Any]) -> int:
    choices = field(body, "n", int, 1)
    if not 1 <= choices <= CHOICES_MAX:
        raise InvalidRequest(f"`n` = {choices} is not between 1 and {CHOICES_MAX}", param="n")
    return choices


class ChatDialect:
    """POST /v1/chat/completions."""

    envelope: Envelope = OpenAIEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        text = conversation(body.get("messages"))
        require_metadata(field(body, "metadata", dict, {}))
        return _ask(body, Operation.CHAT, text, _choices(body))

    def reader(self, asked: Asked) -> OpenAIReader:
        return OpenAIReader(asked.choices)


class CompletionDialect:
    """POST /v1/completions. A list of prompts gives ``n`` choices for each."""

    envelope: Envelope = OpenAIEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        prompt = body.get("prompt")
        prompts = prompt if isinstance(prompt, list) else [prompt]
        if not prompts or prompt is None:
            problem = "`prompt` must be a text, a list of texts, or token ids"
            raise InvalidRequest(problem, param="prompt")
        if all(isinstance(p, int) for p in prompts):
            prompts = [prompt]  # one prompt, as token ids
        choices = _choices(body) * len(prompts)
        return _ask(body, Operation.TEXT_COMPLETION, texts_of(prompts), choices)

    def reader(self, asked: Asked) -> OpenAIReader:
        return OpenAIReader(asked.choices)
