"""OpenAI's embeddings. A vector is no text: a row has no outputs, the vectors are in the answer's
exact bytes.
"""

from typing import Any

import msgspec

from edge_store.errors import InvalidRequest
from edge_store.recorder.envelope import Envelope, OpenAIEnvelope
from edge_store.recorder.transcript import Asked, Garbled, Reading
from edge_store.recorder.transcript.lenient import decode, error_text
from edge_store.recorder.transcript.openai import Usage
from edge_store.recorder.transcript.request import caller_rid, field, params_of, texts_of
from edge_store.result import Operation

__all__ = ["EmbeddingsDialect", "EmbeddingsReader"]

CONTENT = frozenset({"model", "input", "rid", "user"})


class Embedding(msgspec.Struct):
    """One vector, whose numbers are skipped."""


class Answer(msgspec.Struct):
    model: str | None = None
    data: list[Embedding] | None = None
    usage: Usage | None = None
    error: Any = None


DECODER = msgspec.json.Decoder(Answer)


class EmbeddingsReader:
    """Reads the answer to one ``/v1/embeddings``."""

    has_begun = False  # nothing comes piece by piece
    is_usage = False

    def __init__(self) -> None:
        self._answer = Answer()

    def body(self, body: bytes) -> None:
        answer = decode(DECODER, Answer, body)
        assert isinstance(answer, Answer)  # the decoder takes no list
        if not answer.data and answer.error is None:
            raise Garbled("an answer with no embeddings")
        self._answer = answer

    def event(self, data: bytes) -> bool:
        self.body(data)
        return True

    def reading(self) -> Reading:
        answer = self._answer
        usage = answer.usage or Usage()
        details = usage.prompt_tokens_details
        return Reading(
            response_model=answer.model,
            input_tokens=usage.prompt_tokens,
            cached_tokens=details.cached_tokens if details else None,
            is_complete=bool(answer.data) and answer.error is None,
            error_message=None if answer.error is None else error_text(answer.error),
        )


class EmbeddingsDialect:
    """POST /v1/embeddings. SGLang takes no single id for a list of inputs, so ours is not sent."""

    envelope: Envelope = OpenAIEnvelope()

    def ask(self, body: dict[str, Any]) -> Asked:
        given = body.get("input")
        if given is None:
            problem = "`input` must be a text, a list of texts, or token ids"
            raise InvalidRequest(problem, param="input")
        is_one = not isinstance(given, list) or all(isinstance(i, int) for i in given)
        return Asked(
            operation=Operation.EMBEDDINGS,
            model=field(body, "model", str, "") or None,
            stream=False,
            choices=1,
            params=params_of(body, CONTENT),
            input_text=texts_of([given] if is_one else given),
            user_id=field(body, "user", str, "") or None,
            caller_rid=caller_rid(body),
            takes_rid=False,
        )

    def reader(self, asked: Asked) -> EmbeddingsReader:  # noqa: ARG002  (there is one kind)
        return EmbeddingsReader()
