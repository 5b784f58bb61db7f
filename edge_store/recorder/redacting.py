"""What is written of callers' and models' texts where the owner has rules of redaction
(``[privacy]``): of results, and of everything else that goes into the database by another way.

The work is done by a worker of ``jsonrepair`` under its deadline; the caller's bytes pass as they
are. What could not be looked through is not written at all. Without rules nothing is done, and
nothing waits. Runs on the event loop.
"""

from typing import Any, TypeVar

import msgspec

from edge_store.config import PrivacySection
from edge_store.errors import StoreError
from edge_store.jsonrepair import JsonWorkers
from edge_store.recorder.caller import RecordLevel
from edge_store.recorder.keeping import NOTHING, reduced
from edge_store.redaction import WHOLE, Job, Redacted
from edge_store.result import Content, Output, Result

__all__ = ["Redacting"]

T = TypeVar("T")

TEXTS = (
    "request_model", "response_model", "response_id", "user_id", "caller_rid", "trace_id",
    "error_message",
)  # fmt: skip
DOCUMENTS = ("params", "metadata")
OUTPUT_TEXTS = ("output_text", "reasoning", "schema_error", "repair_log", "constraint_error")
OUTPUT_DOCUMENTS = ("tool_calls", "output_json")
QUOTING = ("schema_error", "repair_log", "constraint_error")
QUOTED_MAX = 200  # a longer one may have been cut, and a find with it
LABEL = WHOLE[:-1]  # what every label begins with
TOGETHER_MAX = 1000  # texts of one job


class Redacting:
    """Applies the rules, if there are any."""

    def __init__(self, config: PrivacySection, workers: JsonWorkers) -> None:
        self.config = config
        self._detectors = tuple(detector.value for detector in config.detectors)
        self._rules = tuple(sorted(config.rules.items()))
        self._workers = workers

    @property
    def is_on(self) -> bool:
        """Whether there is a rule."""
        return bool(self._detectors or self._rules)

    async def written(self, result: Result) -> Result:
        """What is written of ``result``. Safe to cancel."""
        if not self.is_on:
            return result
        redacted = await self._workers.redact(self._job(result))
        return self.unseen(result) if redacted is None else _with(result, redacted)

    def unseen(self, result: Result) -> Result:
        """What is written of one that no rule was applied to."""
        if not self.is_on:
            return result
        return msgspec.structs.replace(
            reduced(result, RecordLevel.OFF),
            response_model=None,
            response_id=None,
            privacy='{"record":"meta","redaction":"failed"}',
        )

    async def texts(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """What is written of these. Of what cannot be looked through nothing is."""
        if not self.is_on:
            return texts
        found: list[str] = []
        for start in range(0, len(texts), TOGETHER_MAX):
            some = texts[start : start + TOGETHER_MAX]
            redacted = await self._redact(texts=some)
            found += (WHOLE for _ in some) if redacted is None else map(str, redacted.texts)
        return tuple(found)

    async def text(self, text: str) -> str:
        """What is written of it."""
        return (await self.texts((text,)))[0]

    async def value(self, value: T, kind: Any) -> T:
        """What is written of something that is stored as JSON, as a ``kind``.

        Raises:
            StoreError: it cannot be looked through, or is no ``kind`` any more.
        """
        if not self.is_on:
            return value
        text = msgspec.json.encode(value).decode()
        redacted = await self._redact(documents=(text,))
        if redacted is None:
            raise StoreError(
                "nothing was stored: the rules of [privacy] took too long over it",
                hint="see `not_redacted` in the log; repair.deadline_s is the bound",
            )
        found = redacted.documents[0]
        assert found is not None
        if found == text:
            return value
        try:
            kept: T = msgspec.json.decode(found, type=kind)
        except msgspec.DecodeError as exc:
            raise StoreError(
                "nothing was stored: a rule of [privacy] takes out what gives it its form",
                hint="leave such texts out of the names and types of fields",
            ) from exc
        return kept

    async def body(self, body: bytes) -> bytes | None:
        """What is written of a JSON body; the same object where there is nothing to find, None
        where it cannot be looked through.
        """
        if not self.is_on:
            return body
        redacted = await self._redact(request_body=body)
        if redacted is None:
            return None
        return body if redacted.request_body == body else redacted.request_body

    async def _redact(self, **parts: Any) -> Redacted | None:
        job = Job(detectors=self._detectors, rules=self._rules, **parts)
        return await self._workers.redact(job)

    def _job(self, result: Result) -> Job:
        content = result.content
        return Job(
            detectors=self._detectors,
            rules=self._rules,
            texts=(
                *(getattr(result, name) for name in TEXTS[:-1]),
                _whole_error(result),
                content.input_text,
                *(getattr(o, name) for o in result.outputs for name in OUTPUT_TEXTS),
            ),
            documents=(
                *(getattr(result, name) for name in DOCUMENTS),
                *(getattr(o, name) for o in result.outputs for name in OUTPUT_DOCUMENTS),
            ),
            request_body=content.request_body,
            response_body=content.response_body,
        )


def _whole_error(result: Result) -> str | None:
    """The error's text. Where it is the beginning of the engine's answer, which was cut anywhere,
    all of that, so that no part of a find is left at its end.
    """
    message, body = result.error_message, result.content.response_body
    if not message or len(message) >= len(body):
        return message
    text = body.decode(errors="replace")
    return text if text.startswith(message.rstrip("\ufffd")) else message


def _with(result: Result, redacted: Redacted) -> Result:
    """The result as its parts are now; the same if nothing was found."""
    dropped = [
        name for name in ("request_body", "response_body") if getattr(redacted, name) is None
    ]
    if not redacted.counts and not dropped:
        return result
    texts, documents = iter(redacted.texts), iter(redacted.documents)
    fields: dict[str, Any] = {name: next(texts) for name in TEXTS}
    fields |= {name: next(documents) for name in DOCUMENTS}
    if result.error_message and _whole_error(result) != result.error_message:
        fields["error_message"] = fields["error_message"][: len(result.error_message)]
    input_text = next(texts)
    outputs = tuple(_output(output, texts, documents) for output in result.outputs)
    content = NOTHING
    if result.content != NOTHING:
        content, more = _content(input_text, redacted)
        dropped += more
    said: dict[str, Any] = msgspec.json.decode(result.privacy or "{}")
    said["redacted"] = redacted.counts
    if dropped:
        said["dropped"] = dropped
    if result.idempotency_key_hash is None:  # else it has to be known whether a body is the same
        fields["request_fingerprint"] = b""  # with it, a guess of what was taken out can be tried
    return msgspec.structs.replace(
        result,
        **fields,
        outputs=outputs,
        content=content,
        privacy=msgspec.json.encode(said).decode(),
    )


def _content(input_text: str | None, redacted: Redacted) -> tuple[Content, list[str]]:
    """The bodies, and the names of those that are dropped though they were looked through: where
    the one has a find that the other has not, it lies there in pieces.
    """
    more = []
    if redacted.is_split or redacted.request_body is None:
        input_text = None if input_text is None else WHOLE
    request_body = redacted.request_body
    labels = (input_text or "").count(LABEL)
    if request_body is not None and labels > request_body.count(LABEL.encode()):
        request_body = None
        more.append("request_body")
    kept = Content(
        input_text=input_text,
        request_body=request_body or b"",
        response_body=redacted.response_body or b"",
    )
    return kept, more


def _output(output: Output, texts: Any, documents: Any) -> Output:
    fields = {name: next(texts) for name in OUTPUT_TEXTS}
    fields |= {name: next(documents) for name in OUTPUT_DOCUMENTS}
    is_found = any(value != getattr(output, name) for name, value in fields.items())
    for name in QUOTING:
        if is_found and len(fields[name] or "") > QUOTED_MAX:
            fields[name] = WHOLE
    return msgspec.structs.replace(output, **fields)
