"""Every failure this system reports, cut by whose fault it is and what they can do about it.

    EdgeStoreError
    ├ ConfigError           the operator, before start: exit 78, a restart cannot mend it
    ├ RequestError          the caller: 4xx
    ├ Overloaded            nobody: 503 or 429 with Retry-After, try again
    ├ EngineError           the GPU or the upstream: 502, 503, 504
    ├ StoreError            the disk or the file: 5xx; some exit codes forbid a restart
    ├ ReplicationError      the replica or its program
    └ LakeFailed            the fleet's lake or its store

Each leaf has a stable ``code``: the ``error_type`` of a row, the ``code`` of an HTTP error, and a
heading of docs/operations.md. A foreign exception is translated once, where it enters.
"""

from typing import ClassVar

from edge_store import exits

__all__ = [
    "AddressTaken", "AdmissionClosed", "AlreadyRunning", "BoxFoundTwice", "Cancelled",
    "ClientDisconnected", "ConcurrencyLimited", "ConfigError", "ConversationLocked", "Corrupt",
    "DiskBudgetSpent", "DiskFull", "EdgeStoreError", "EngineCrashed", "EngineError",
    "EngineRefused", "EngineStartFailed", "Forbidden", "GenerationTimeout",
    "IdempotencyConflict", "InvalidRequest", "KeyExpired", "KeyRevoked", "LakeFailed",
    "LakeOvertaken", "LitestreamUnavailable", "MethodNotAllowed", "NoRoomForAnswer",
    "NotAnEdgeStoreFile", "NotFound", "Overloaded", "PathTaken", "PayloadTooLarge",
    "QueryRefused", "QueueFull", "RateLimited", "RecorderFull", "ReplicaNotFound",
    "ReplicationError", "RequestError", "RequestTimeout", "ResponseTooLarge", "RestoreFailed",
    "SchemaTooNew", "ShutDown", "StoreError", "TenantOverShare", "TimelineChanged",
    "Unauthorized", "UpstreamError", "VerifyFailed", "VulnerableSQLite", "WriterStopped",
    "may_pass",
]  # fmt: skip


def may_pass(http_status: int) -> bool:
    """Whether it is worth to ask again, where the status is all that is known: as the SDKs do."""
    return http_status in (408, 409, 429) or http_status >= 500


class EdgeStoreError(Exception):
    """The root. ``str(error)`` says what failed, with the value; ``hint`` says what to do next."""

    code: ClassVar[str] = "internal_error"
    http_status: int = 500
    exit_code: ClassVar[int] = exits.FAILURE
    retryable: bool = False
    retry_after_s: int = 0  # 0: nobody can tell
    param: str | None = None  # path of the fault in what was sent, as in ``messages[0].content``

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(EdgeStoreError):
    """A setting is unknown, malformed or contradicts another."""

    code = "config_invalid"
    exit_code = exits.CONFIG


class AddressTaken(ConfigError):
    """Something else listens there: it may be gone when systemd tries again."""

    code = "address_taken"
    exit_code = exits.TEMPORARY


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


class EngineError(EdgeStoreError):
    """The engine could not answer."""

    code = "engine_error"
    http_status = 502
    retryable = True


class EngineStartFailed(EngineError):
    """The engine did not come up."""

    code = "engine_start_failed"


class EngineCrashed(EngineError):
    """The engine died with requests in flight."""

    code = "engine_crashed"
    exit_code = exits.ENGINE


class EngineRefused(EngineError):
    """The engine answered with an error of its own, which is passed on as it is."""

    code = "engine_refused"

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retryable = may_pass(http_status)


class UpstreamError(EngineError):
    """The upstream server refused, died mid-answer, or sent what is not an answer."""

    code = "upstream_error"


class ResponseTooLarge(EngineError):
    """The answer is over ``recorder.response_bytes_max``."""

    code = "response_too_large"
    retryable = False


class GenerationTimeout(EngineError):
    """The engine took longer than it may."""

    code = "generation_timeout"
    http_status = 504


class StoreError(EdgeStoreError):
    """The database could not take the row."""

    code = "store_error"
    http_status = 500


class DiskBudgetSpent(StoreError):
    """A copy does not fit into what its folder may take."""

    code = "disk_budget_spent"


class DiskFull(StoreError):
    """No space left for the database."""

    code = "disk_full"
    http_status = 507
    retryable = True
    retry_after_s = 30


class WriterStopped(StoreError):
    """The writer has ended; nothing more is recorded."""

    code = "writer_stopped"
    http_status = 503
    retryable = True
    retry_after_s = 5


class AlreadyRunning(StoreError):
    """Another process holds the lock of this database."""

    code = "already_running"
    exit_code = exits.TEMPORARY


class Corrupt(StoreError):
    """The file is damaged."""

    code = "database_corrupt"
    exit_code = exits.CORRUPT


class NotAnEdgeStoreFile(StoreError):
    """The file is a database, but not one of ours, or it is not there."""

    code = "not_an_edge_store_file"
    exit_code = exits.NOT_OURS


class SchemaTooNew(StoreError):
    """The file was written by a newer edge-store."""

    code = "schema_too_new"
    exit_code = exits.SCHEMA_TOO_NEW


class VulnerableSQLite(StoreError):
    """This SQLite has the WAL-reset bug (sqlite.org/wal.html#the_wal_reset_bug)."""

    code = "sqlite_vulnerable"
    exit_code = exits.CONFIG


class ReplicationError(EdgeStoreError):
    """The replica could not be written, read or proven."""

    code = "replication_error"


class LitestreamUnavailable(ReplicationError):
    """The litestream program is missing, too old, or does not start."""

    code = "litestream_unavailable"


class PathTaken(ReplicationError):
    """Another box writes to the path of this box's replica."""

    code = "path_taken"


class ReplicaNotFound(ReplicationError):
    """Nothing was ever replicated there."""

    code = "replica_not_found"


class BoxFoundTwice(ReplicationError):
    """More than one store has a replica of the box."""

    code = "box_found_twice"


class ReplicaBehind(ReplicationError):
    """The replica ends before the copy that is already there."""

    code = "replica_behind"


class RestoreFailed(ReplicationError):
    """Litestream could not rebuild the database from the replica."""

    code = "restore_failed"


class VerifyFailed(ReplicationError):
    """The file is readable but its digest chain or its integrity check does not hold."""

    code = "verify_failed"
    exit_code = exits.CORRUPT


class LakeFailed(EdgeStoreError):
    """The lake could not be read or written; what it had is as it was."""

    code = "lake_failed"
    retryable = True


class LakeOvertaken(LakeFailed):
    """Another writer committed rows of the same boxes first."""

    code = "lake_overtaken"
