"""What a caller can mend, and what nobody can but by asking again."""

from edge_store.errors.root import EdgeStoreError

__all__ = [
    "AdmissionClosed",
    "Cancelled",
    "ClientDisconnected",
    "ConcurrencyLimited",
    "ConversationLocked",
    "Forbidden",
    "IdempotencyConflict",
    "InvalidRequest",
    "KeyExpired",
    "KeyRevoked",
    "MethodNotAllowed",
    "NoRoomForAnswer",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "QueryRefused",
    "QueueFull",
    "RateLimited",
    "RecorderFull",
    "RequestError",
    "RequestTimeout",
    "ResultHeld",
    "ShutDown",
    "TenantOverShare",
    "TimelineChanged",
    "Unauthorized",
]


class RequestError(EdgeStoreError):
    """The caller can mend this."""

    code = "invalid_request"
    http_status = 400

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class InvalidRequest(RequestError):
    """The body is not what the route takes."""


class Unauthorized(RequestError):
    """No key was given, or none that was ever made here."""

    code = "unauthorized"
    http_status = 401


class KeyRevoked(Unauthorized):
    """The key was revoked."""

    code = "key_revoked"


class KeyExpired(Unauthorized):
    """The key's time is over."""

    code = "key_expired"


class Forbidden(RequestError):
    """The key lacks the right."""

    code = "forbidden"
    http_status = 403


class ResultHeld(Forbidden):
    """The result is pinned or held: nobody deletes it."""

    code = "result_held"


class NotFound(RequestError):
    """No such route or no such result."""

    code = "not_found"
    http_status = 404


class MethodNotAllowed(RequestError):
    """The route takes ``allowed``."""

    code = "method_not_allowed"
    http_status = 405

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message, hint=f"it takes {allowed}")
        self.allowed = allowed


class RequestTimeout(RequestError):
    """The body took longer than ``server.body_timeout_s``."""

    code = "request_timeout"
    http_status = 408


class PayloadTooLarge(RequestError):
    """The body is over ``server.body_bytes_max``."""

    code = "payload_too_large"
    http_status = 413


class TimelineChanged(RequestError):
    """The box was restored: its ``seq`` numbers go on from an earlier one."""

    code = "timeline_changed"
    http_status = 409


class ConversationLocked(RequestError):
    """Another response of this conversation has not ended. 400 as OpenAI has it; SDKs ask again."""

    code = "conversation_locked"
    retryable = True
    retry_after_s = 1


class IdempotencyConflict(RequestError):
    """The ``Idempotency-Key`` is another request's, or its answer is stored without a body."""

    code = "idempotency_conflict"
    http_status = 422


class QueryRefused(RequestError):
    """The SQL would write, attach, run too long, or does not parse."""

    code = "query_refused"


class ClientDisconnected(RequestError):
    """The caller left before the end; what had been generated is recorded."""

    code = "client_disconnected"
    http_status = 499


class Cancelled(RequestError):
    """The caller had it cancelled; what had been generated is recorded."""

    code = "cancelled"
    http_status = 499


class Overloaded(EdgeStoreError):
    """Try again after ``retry_after_s``."""

    code = "overloaded"
    http_status = 503
    retryable = True
    retry_after_s = 1


class RecorderFull(Overloaded):
    """Every recorder slot is taken, or there is no room for the body."""

    code = "recorder_full"


class TenantOverShare(Overloaded):
    """The recorder is full, and this tenant has more of it than others, who still get in."""

    code = "tenant_over_share"
    http_status = 429


class RateLimited(Overloaded):
    """The key has made all the requests that it may in a minute."""

    code = "rate_limited"
    http_status = 429

    def __init__(self, message: str, *, hint: str, retry_after_s: int) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class ConcurrencyLimited(Overloaded):
    """The key has as many requests in flight as it may."""

    code = "concurrency_limited"
    http_status = 429


class NoRoomForAnswer(Overloaded):
    """The answer was cut, as the answers under way had no room for more of it."""

    code = "no_room_for_answer"


class QueueFull(Overloaded):
    """As many requests wait in the queue as may."""

    code = "queue_full"


class AdmissionClosed(Overloaded):
    """The daemon is starting or draining."""

    code = "admission_closed"
    retry_after_s = 5


class ShutDown(Overloaded):
    """The daemon stopped before this answer was complete."""

    code = "shut_down"
    retry_after_s = 5
