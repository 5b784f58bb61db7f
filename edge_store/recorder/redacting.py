"""What of a result is written where the owner has rules of redaction (``[privacy]``).

The work is done by a worker of ``jsonrepair`` under its deadline; the caller's bytes pass as they
are. What could not be looked through is not written at all: the row then says ``redaction: failed``
and has times and token counts. Runs on the event loop.
"""

from typing import Any

import msgspec

from edge_store.config import PrivacySection
from edge_store.jsonrepair import JsonWorkers
from edge_store.recorder.caller import RecordLevel
from edge_store.recorder.keeping import NOTHING, reduced
from edge_store.redaction import Job, Redacted
from edge_store.result import Content, Output, Result

__all__ = ["Redacting"]

TEXTS = ("user_id", "caller_rid", "error_message")
DOCUMENTS = ("params", "metadata")
OUTPUT_TEXTS = ("output_text", "reasoning", "schema_error", "repair_log", "constraint_error")
OUTPUT_DOCUMENTS = ("tool_calls", "output_json")


class Redacting:
    """Applies the rules, if there are any."""

    def __init__(self, config: PrivacySection, workers: JsonWorkers) -> None:
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
        result = reduced(result, RecordLevel.OFF)
        return msgspec.structs.replace(
            result, error_message=None, privacy='{"record":"meta","redaction":"failed"}'
        )

    def _job(self, result: Result) -> Job:
        content = result.content
        return Job(
            detectors=self._detectors,
            rules=self._rules,
            texts=(
                *(getattr(result, name) for name in TEXTS),
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
    input_text = next(texts)
    outputs = tuple(_output(output, texts, documents) for output in result.outputs)
    said: dict[str, Any] = msgspec.json.decode(result.privacy or "{}")
    said["redacted"] = redacted.counts
    if dropped:
        said["dropped"] = dropped
    content = NOTHING
    if result.content != NOTHING:
        content = Content(
            input_text=input_text,
            request_body=redacted.request_body or b"",
            response_body=redacted.response_body or b"",
        )
    return msgspec.structs.replace(
        result,
        **fields,
        outputs=outputs,
        content=content,
        privacy=msgspec.json.encode(said).decode(),
    )


def _output(output: Output, texts: Any, documents: Any) -> Output:
    fields = {name: next(texts) for name in OUTPUT_TEXTS}
    fields |= {name: next(documents) for name in OUTPUT_DOCUMENTS}
    return msgspec.structs.replace(output, **fields)
