"""What is known of a request, and the row that it becomes."""

import hashlib
import re
import time

from edge_store.clock import now_ms
from edge_store.engine import Scope
from edge_store.errors import (
    Cancelled,
    ClientDisconnected,
    EdgeStoreError,
    InvalidRequest,
    ShutDown,
)
from edge_store.ids import ResultId, new_result_id
from edge_store.recorder.caller import RecordLevel, caller_of, origin_of, record_level
from edge_store.recorder.exchange import Exchange
from edge_store.recorder.failure import may_succeed_later
from edge_store.recorder.keeping import reduced
from edge_store.recorder.slots import Slot
from edge_store.recorder.structured import as_json
from edge_store.recorder.transcript import Asked, Reading
from edge_store.result import Boot, Content, Output, Record, Result, Status

__all__ = ["Entry", "Key", "key_hash", "key_in", "key_of"]

JSON_HEADER = b"x-edge-store-json"
TRACE_ID = re.compile(rb"[0-9a-f]{32}")
KEY_BYTES_MAX = 255  # of an Idempotency-Key


class Key(Record, frozen=True, kw_only=True):
    """The SHA-256 of an ``Idempotency-Key``, and of the request that it came with."""

    key_hash: bytes
    fingerprint: bytes


class Entry:
    """What is known of a request; once admitted, it becomes a ``Result``.

    Raises ``InvalidRequest`` for a header that cannot be.
    """

    wait_s: float | None = None  # for the replica
    _slot: Slot
    _clock_synced: bool
    _created_at: int

    def __init__(
        self,
        boot: Boot,
        scope: Scope,
        asked: Asked,
        body: tuple[bytes, bytes],  # and its fingerprint
        exchange: Exchange,
    ) -> None:
        self.boot = boot
        self.exchange = exchange
        self.tenant = caller_of(scope).tenant
        self._origin = origin_of(scope)
        self.endpoint: str = self._origin.endpoint or scope["path"]
        self._headers = {k.lower(): v for k, v in scope["headers"]}
        self.key_hash = key_hash(self._headers.get(b"idempotency-key"))
        self._level = record_level(scope)
        if self._level is RecordLevel.OFF and self.key_hash is not None:
            raise InvalidRequest(
                "with x-edge-store-record: off there is no answer to give again under its "
                "Idempotency-Key",
                hint="leave one of the two headers out",
            )
        self._body, self.fingerprint = body
        self.gives_json = _gives_json(self._headers.get(JSON_HEADER), asked)
        self.asked = as_json(asked) if self.gives_json else asked

    def admit(self, slot: Slot, *, clock_synced: bool) -> None:
        """The request holds ``slot``: from now on it must become a row."""
        self._slot = slot
        self._clock_synced = clock_synced
        self._created_at = now_ms()

    def result(
        self, reading: Reading, outputs: tuple[Output, ...], failure: EdgeStoreError | None
    ) -> Result:
        """The row of this outcome."""
        exchange, asked = self.exchange, self.asked
        started, first = self._slot.admitted_monotonic, exchange.first_token_monotonic
        latency_ms = ((exchange.ended_monotonic or time.monotonic()) - started) * 1000
        outputs = outputs or reading.outputs
        return Result(
            id=self._id(failure),
            device_id=self.boot.device_id,
            boot_id=self.boot.boot_id,
            boot_seq=self._slot.boot_seq,
            operation=asked.operation,
            endpoint=self.endpoint,
            status=_status(failure, outputs),
            request_model=asked.model,
            response_model=reading.response_model,
            engine=self.boot.engine,
            engine_version=self.boot.engine_version,
            params=asked.params,
            created_at=self._created_at,
            first_token_at=exchange.first_token_at,
            completed_at=self._created_at + round(latency_ms),
            clock_synced=self._clock_synced,
            latency_ms=latency_ms,
            ttft_ms=None if first is None else (first - started) * 1000,
            queue_ms=self._slot.queue_ms,
            input_tokens=reading.input_tokens,
            output_tokens=reading.output_tokens,
            cached_tokens=reading.cached_tokens,
            reasoning_tokens=reading.reasoning_tokens,
            finish_reason=outputs[0].finish_reason if outputs else None,
            stream=asked.stream,
            conversation_id=self._origin.conversation_id,
            previous_id=self._origin.previous_id,
            batch_id=self._origin.batch_id,
            custom_id=self._origin.custom_id,
            tenant=self.tenant,
            user_id=asked.user_id,
            metadata=asked.metadata,
            caller_rid=asked.caller_rid,
            response_id=None if reading.response_id == exchange.result_id else reading.response_id,
            idempotency_key_hash=self.key_hash or self._origin.key_hash,
            request_fingerprint=self.fingerprint,
            trace_id=_trace_id(self._headers.get(b"traceparent", b"")),
            http_status=failure.http_status if failure else exchange.http_status,
            error_type=failure.code if failure else None,
            error_message=str(failure) if failure else None,
            outputs=outputs,
            content=Content(
                input_text=asked.input_text,
                request_body=self._body,
                response_body=exchange.response_body,
            ),
        )

    def kept(self, result: Result) -> Result:
        """What of ``result`` is written."""
        return reduced(result, self._level, is_stored=self.asked.is_kept)

    def _id(self, failure: EdgeStoreError | None) -> ResultId:
        """The id that the caller has, unless another attempt follows this one."""
        left = self._origin.attempts_left
        if left is not None and failure is not None:
            follows = left > 0 and may_succeed_later(failure.http_status, failure.code)
            if follows or isinstance(failure, ShutDown):
                return new_result_id()
        return self.exchange.result_id


def _gives_json(value: bytes | None, asked: Asked) -> bool:
    """Whether the caller wants the JSON in place of the text."""
    if value is None:
        return False
    if value.strip().lower() != b"repaired":
        raise InvalidRequest(
            f"the header x-edge-store-json is {value[:40].decode(errors='replace')!r}; "
            "it can be `repaired`"
        )
    if asked.shape is None or asked.stream:
        what = "a stream, whose pieces leave as they come," if asked.stream else "this answer"
        raise InvalidRequest(
            f"{what} cannot be given as repaired JSON",
            hint="leave the header x-edge-store-json out; the row has output_json either way",
        )
    return True


def key_in(scope: Scope) -> bytes | None:
    """The ``Idempotency-Key`` of a request."""
    return next((v for k, v in scope["headers"] if k.lower() == b"idempotency-key"), None)


def key_of(key: bytes | None, body: bytes) -> Key | None:
    """What is kept of an ``Idempotency-Key`` and the body that came with it."""
    hashed = key_hash(key)
    if hashed is None:
        return None
    return Key(key_hash=hashed, fingerprint=hashlib.sha256(body).digest())


def key_hash(key: bytes | None) -> bytes | None:
    """SHA-256 of an ``Idempotency-Key``: the key itself may be long, or a secret."""
    if key is None:
        return None
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise InvalidRequest(
            f"the header Idempotency-Key has {len(key)} bytes; 1 to {KEY_BYTES_MAX} are allowed",
            hint="send one that is unique to this request, as a UUID is",
        )
    return hashlib.sha256(key).digest()


def _status(failure: EdgeStoreError | None, outputs: tuple[Output, ...]) -> Status:
    match failure:
        case None if any(output.finish_reason == "abort" for output in outputs):
            return Status.CANCELLED
        case None:
            return Status.COMPLETED
        case ClientDisconnected():
            return Status.INCOMPLETE
        case ShutDown() | Cancelled():
            return Status.CANCELLED
        case _:
            return Status.FAILED


def _trace_id(traceparent: bytes) -> str | None:
    """The trace id of a W3C ``traceparent``: version-traceid-parentid-flags."""
    parts = traceparent.split(b"-")
    return parts[1].decode() if len(parts) == 4 and TRACE_ID.fullmatch(parts[1]) else None
