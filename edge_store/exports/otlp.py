"""OTLP over HTTP, as JSON: each result a span with the times of then, under the names of
OpenTelemetry's GenAI conventions (as the view ``v_otel``). Ids are made from the result's own, so
what is sent twice is the same span twice, which a backend keeps once. Each page is sent before the
next is read.
"""

import gzip
import hashlib
import math
import random
import re
import time
from collections import Counter
from functools import partial
from typing import Any

import httpx
import msgspec

from edge_store import __version__
from edge_store.errors import ExportFailed
from edge_store.exports.chats import chat_of, chat_rows
from edge_store.exports.kinds import Export, Job, Skipped
from edge_store.exports.mark import Mark
from edge_store.exports.pages import Page
from edge_store.result import Operation, Recorded, Status

__all__ = ["open_export", "span_of"]

PATH = "/v1/traces"
SPANS_PER_REQUEST = 256
BYTES_PER_REQUEST = 2 * 2**20  # collectors take 4 MB, as a rule
TIMEOUT_S = 30.0
TRIES = 6
PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
MAY_PASS = frozenset({408, 429, 502, 503, 504})  # OTLP, "Retryable Response Codes"
KIND_CLIENT, STATUS_ERROR = 3, 2
TRACE_ID = re.compile(r"[0-9a-f]{32}")
OPERATIONS = {Operation.TEXT_COMPLETION: "text_completion", Operation.GENERATE: "text_completion"}

Json = dict[str, Any]


def open_export(job: Job, mark: Mark) -> Export:
    """Spans to an endpoint."""
    return OtlpExport(job, mark)


class OtlpExport:
    """Sends what it is given, and tries again what may pass."""

    def __init__(self, job: Job, mark: Mark) -> None:
        url = job.target.rstrip("/")
        self._url = url if url.endswith(PATH) else url + PATH
        self._resource = {
            "service.name": "edge-store",
            "service.version": __version__,
            "service.instance.id": mark.device_id,
            "host.name": mark.device_id,
        }
        self._bodies = job.bodies
        self._client = httpx.Client(timeout=TIMEOUT_S, headers=dict(job.headers))
        self.fetch = partial(chat_rows, job)

    def begin(self) -> None:
        """What was sent stays sent."""

    def write(self, page: Page, skipped: Counter[str]) -> int:
        """Send it.

        Raises:
            ExportFailed: it was refused, or nobody takes it.
        """
        spans: list[bytes] = []
        rows = 0
        for recorded, _said in page.rows:
            if recorded.result.operation is Operation.PREFIX_CACHE:
                skipped["nothing was asked of the model"] += 1
                continue
            spans.append(msgspec.json.encode(span_of(recorded, bodies=self._bodies)))
            if len(spans) == SPANS_PER_REQUEST or sum(map(len, spans)) > BYTES_PER_REQUEST:
                rows += self._send(spans, skipped)
                spans = []
        return rows + (self._send(spans, skipped) if spans else 0)

    def _send(self, spans: list[bytes], skipped: Counter[str]) -> int:
        scope = {"name": "edge-store", "version": __version__}
        traced = {"scope": scope, "spans": [msgspec.Raw(span) for span in spans]}
        resource = {"attributes": _attributes(self._resource)}
        body = {"resourceSpans": [{"resource": resource, "scopeSpans": [traced]}]}
        answer = self._post(gzip.compress(msgspec.json.encode(body), compresslevel=1, mtime=0))
        try:
            partial_success = msgspec.json.decode(answer or b"{}").get("partialSuccess") or {}
            refused = int(partial_success.get("rejectedSpans") or 0)
        except (msgspec.DecodeError, AttributeError, ValueError):
            return len(spans)
        if refused:
            skipped[f"refused: {partial_success.get('errorMessage') or 'it says not why'}"] += (
                refused
            )
        return len(spans) - refused

    def _post(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        pause_s, why = PAUSE_S, ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  (no secret)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            try:
                answer = self._client.post(self._url, content=body, headers=headers)
            except httpx.HTTPError as exc:
                why = str(exc) or type(exc).__name__
                continue
            if answer.is_success:
                return answer.content
            why = f"{answer.status_code} {answer.text[:200]}".strip()
            if answer.status_code not in MAY_PASS:
                break
            pause_s = max(pause_s, _retry_after_s(answer))
        raise ExportFailed(
            f"{self._url} does not take the spans: {why}",
            hint="put it right, then again with --resume",
        )

    def is_due(self) -> bool:
        """What was sent is there."""
        return True

    def sync(self) -> int:
        """There is nothing that waits."""
        return 0

    def close(self) -> None:
        """Leave the connection."""
        self._client.close()


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return min(float(answer.headers.get("retry-after", "0")), PAUSE_MAX_S)
    except ValueError:
        return 0.0


def span_of(recorded: Recorded, *, bodies: bool) -> Json:
    """One result's span."""
    result = recorded.result
    name = f"{result.device_id}/{result.id}".encode()
    made = hashlib.sha256(name).hexdigest()
    trace_id = (result.trace_id or "").lower()
    operation = OPERATIONS.get(result.operation, result.operation.value)
    model = result.response_model or result.request_model
    begin, end = result.created_at, max(result.completed_at, result.created_at)
    span: Json = {
        "traceId": trace_id if TRACE_ID.fullmatch(trace_id) else made[:32],
        "spanId": made[32:48],
        "name": f"{operation} {model}" if model else operation,
        "kind": KIND_CLIENT,
        "startTimeUnixNano": str(max(begin, 0) * 1_000_000),
        "endTimeUnixNano": str(max(end, 0) * 1_000_000),
        "attributes": _attributes(_named(recorded, operation) | _texts(recorded, bodies=bodies)),
    }
    if result.first_token_at is not None:
        first = str(max(result.first_token_at, 0) * 1_000_000)
        span["events"] = [{"timeUnixNano": first, "name": "gen_ai.first_token"}]
    if result.status is not Status.COMPLETED:
        message = result.error_message or result.status.value
        span["status"] = {"code": STATUS_ERROR, "message": message}
    return span


def _named(recorded: Recorded, operation: str) -> Json:
    result = recorded.result
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": result.engine,
        "gen_ai.request.model": result.request_model,
        "gen_ai.response.model": result.response_model,
        "gen_ai.response.id": result.id,
        "gen_ai.response.finish_reasons": [result.finish_reason] if result.finish_reason else None,
        "gen_ai.usage.input_tokens": result.input_tokens,
        "gen_ai.usage.output_tokens": result.output_tokens,
        "gen_ai.conversation.id": result.conversation_id,
        "gen_ai.server.request.duration": result.latency_ms / 1000,
        "gen_ai.server.time_to_first_token": _seconds(result.ttft_ms),
        "error.type": result.error_type,
        "http.response.status_code": result.http_status,
        "url.path": result.endpoint,
        "user.id": result.user_id,
        "edge_store.status": result.status.value,
        "edge_store.seq": recorded.seq,
        "edge_store.timeline": recorded.timeline,
        "edge_store.tenant": result.tenant,
    }


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _texts(recorded: Recorded, *, bodies: bool) -> Json:
    """What was said, as the conventions have it: JSON of messages with parts."""
    if not bodies:
        return {}
    result = recorded.result
    try:
        asked = [_said(each["role"], each.get("content")) for each in chat_of(recorded).messages]
    except Skipped:
        asked = [_said("user", result.content.input_text)]
    answered = [
        _said("assistant", output.output_text) | {"finish_reason": output.finish_reason or "error"}
        for output in result.outputs
    ]
    return {
        "gen_ai.input.messages": msgspec.json.encode(asked).decode(),
        "gen_ai.output.messages": msgspec.json.encode(answered).decode(),
    }


def _said(role: str, content: Any) -> Json:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    return {"role": role, "parts": [{"type": "text", "content": text} for text in texts]}


def _attributes(named: Json) -> list[Json]:
    return [
        {"key": name, "value": _value(value)} for name, value in named.items() if value is not None
    ]


def _value(value: Any) -> Json:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value if math.isfinite(value) else str(value)}
        case list():
            return {"arrayValue": {"values": [_value(each) for each in value]}}
        case _:
            return {"stringValue": str(value)}
