"""SGLang's native ``/generate``, plain and streamed (sglang 0.5: managers/io_struct.py).

A streamed ``text`` is cumulative, so the newest replaces what came before. The event is held whose
``meta_info.finish_reason`` completes the last open output, and an error. One input with ``n``
outputs, or a list of inputs, answers with a list; in a stream each event names its ``index``.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.recorder.envelope import Envelope, OpenAIEnvelope
from edge_store.recorder.transcript import Asked, Form, Garbled, Reading, Shape
from edge_store.recorder.transcript.lenient import Tokens, decode, error_status, error_text
from edge_store.recorder.transcript.request import (
    caller_rid,
    constraints_of,
    field,
    json_text,
    params_of,
    texts_of,
)
from edge_store.result import Operation, Output

__all__ = ["GenerateDialect", "GenerateReader"]

CONTENT = frozenset(
    {"text", "input_ids", "input_embeds", "image_data", "audio_data", "video_data", "rid", "stream"}
)
OUTPUTS_MAX = 4096
DONE = b"[DONE]"


class FinishReason(msgspec.Struct):
    type: str | None = None
    message: str | None = None
    status_code: Any = None  # HTTP's, of an abort


class MetaInfo(msgspec.Struct):
    finish_reason: FinishReason | str | None = None
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None


class Piece(msgspec.Struct):
    """One output, as far as it has come."""

    text: str | None = None
    index: int = 0
    meta_info: MetaInfo | None = None
    error: Any = None

    @property
    def finish_reason(self) -> str | None:
        reason = self.meta_info.finish_reason if self.meta_info else None
        return reason.type if isinstance(reason, FinishReason) else reason


PIECE = msgspec.json.Decoder(Piece)
BODY = msgspec.json.Decoder(list[Piece] | Piece)


class GenerateReader:
    """Reads the answer to one ``/generate``."""

    def __init__(self, outputs: int, per_input: int = 1) -> None:
        self._expected = outputs
        self._per_input = per_input
        self._pieces: dict[int, Piece] = {}
        self._error: str | None = None
        self._error_status: int | None = None
        self._is_complete = False
        self._is_over = False  # nothing that comes later opens another output
        self.has_begun = False
        self.is_usage = False  # token counts come with each event

    def body(self, body: bytes) -> None:
        answer = decode(BODY, Piece, body)
        pieces = answer if isinstance(answer, list) else [answer]
        for index, piece in enumerate(pieces):
            self._take(index, piece)
        if not self._pieces and self._error is None:
            raise Garbled("an answer with no outputs")
        self._is_complete = self._error is None

    def event(self, data: bytes) -> bool:
        if data != DONE:
            piece = decode(PIECE, Piece, data)
            assert isinstance(piece, Piece)  # the decoder takes no list
            if not 0 <= piece.index < OUTPUTS_MAX:
                raise Garbled(f"output index {piece.index} is not below {OUTPUTS_MAX}")
            self._take(piece.index, piece)
        self._is_over = self._is_over or data == DONE or self._error is not None
        finished = sum(piece.finish_reason is not None for piece in self._pieces.values())
        is_done = data == DONE and bool(self._pieces)  # an end of nothing is no answer
        self._is_complete = self._is_complete or is_done or finished >= self._expected
        return self._is_over or 0 < finished == len(self._pieces)

    def _take(self, index: int, piece: Piece) -> None:
        if piece.error is not None:
            self._error = error_text(piece.error)
            self._error_status = error_status(piece.error)
            return
        if piece.meta_info is None and piece.text is None:
            return
        self._pieces[index] = piece
        self.has_begun = self.has_begun or bool(piece.text)
        reason = piece.meta_info.finish_reason if piece.meta_info else None
        if isinstance(reason, FinishReason) and reason.type == "abort":
            self._error = reason.message or self._error
            self._error_status = error_status({"code": reason.status_code})

    def _once_per_input(self, name: str) -> int | None:
        """The sum of a count of the prompt, which each of its outputs repeats. The outputs of one
        input follow each other.
        """
        inputs: dict[int, int] = {}
        for index, piece in self._pieces.items():
            count = getattr(piece.meta_info, name, None)
            if count is not None:
                place = index // self._per_input
                inputs[place] = max(inputs.get(place, 0), count)
        return _sum(inputs.values())

    def reading(self) -> Reading:
        metas = [piece.meta_info or MetaInfo() for piece in self._pieces.values()]
        return Reading(
            outputs=tuple(
                Output(
                    choice_index=index,
                    output_text=piece.text or "",
                    finish_reason=piece.finish_reason,
                )
                for index, piece in sorted(self._pieces.items())
            ),
            input_tokens=self._once_per_input("prompt_tokens"),
            output_tokens=_sum(meta.completion_tokens for meta in metas),
            cached_tokens=self._once_per_input("cached_tokens"),
            reasoning_tokens=_sum(meta.reasoning_tokens for meta in metas),
            is_complete=self._is_complete,
            error_message=self._error,
            error_status=self._error_status,
        )


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _forms(all_sampling: list[dict[str, Any]]) -> tuple[Form, ...]:
    """What is asked of the outputs of each input."""
    forms = [constraints_of(sampling) for sampling in all_sampling]
    return tuple(form[0] if form else Form() for form in forms) if any(forms) else ()


class GenerateDialect:
    """POST /generate. Where no output is asked for, the call fills the engine's prefix cache or
    scores a prompt, as ``sglang.RuntimeEndpoint`` does before a choice: no result of a model.
    """

    envelope: Envelope = OpenAIEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        text, ids = body.get("text"), body.get("input_ids")
        given = text if text is not None else ids
        if given is None and body.get("input_embeds") is None:
            problem = "`text`, `input_ids` or `input_embeds` is required"
            raise InvalidRequest(problem, param="text")
        if given == []:
            name = "input_ids" if text is None else "text"
            raise InvalidRequest(f"`{name}` is an empty list", param=name)
        sampling = body.get("sampling_params") or {}
        inputs = 1
        if isinstance(text, list):
            inputs = len(text)
        elif isinstance(ids, list) and ids and isinstance(ids[0], list):
            inputs = len(ids)
        all_sampling = sampling if isinstance(sampling, list) else [sampling]
        all_sampling = [s for s in all_sampling if isinstance(s, dict)] or [{}]
        first = all_sampling[0]
        is_empty = all(s.get("max_new_tokens") == 0 for s in all_sampling)
        per_input = max(field(first, "n", int, 1, within="sampling_params"), 1)
        prompt = text if isinstance(text, str) else json_text(given)
        if isinstance(text, list):
            prompt = texts_of(text)
        return Asked(
            operation=Operation.PREFIX_CACHE if is_empty else Operation.GENERATE,
            model=field(body, "model", str, "") or None,
            stream=field(body, "stream", bool, False),
            choices=max(inputs, 1) * per_input,
            choices_per_input=per_input,
            params=params_of(body, CONTENT),
            input_text=prompt,
            caller_rid=caller_rid(body),
            forms=_forms(all_sampling),
            shape=Shape.TEXT,
        )

    def reader(self, asked: Asked) -> GenerateReader:
        return GenerateReader(asked.choices, asked.choices_per_input)
