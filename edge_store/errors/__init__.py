"""Every failure this system reports, cut by whose fault it is and what they can do about it.

    EdgeStoreError
    ├ ConfigError           the operator, before start: exit 78, a restart cannot mend it
    ├ RequestError          the caller: 4xx
    ├ Overloaded            nobody: 503 or 429 with Retry-After, try again
    ├ EngineError           the GPU or the upstream: 502, 503, 504
    ├ StoreError            the disk or the file: 5xx; some exit codes forbid a restart
    ├ ReplicationError      the replica or its program
    ├ LakeFailed            the fleet's lake or its store
    ├ ArchiveFailed         the archive of retention, or its store
    ├ ExportFailed · ImportFailed   the other end of an export or an import
    ├ BackupFailed          a backup, or where it is to be
    └ SinkFailed · SinkRefused   what results are pushed to

Each leaf has a stable ``code``: the ``error_type`` of a row, the ``code`` of an HTTP error, and a
heading of docs/operations.md. A foreign exception is translated once, where it enters.
"""

from edge_store.errors.box import (
    AlreadyRunning,
    ArchiveFailed,
    BackupFailed,
    BoxFoundTwice,
    Corrupt,
    DiskBudgetSpent,
    DiskFull,
    EngineCrashed,
    EngineError,
    EngineRefused,
    EngineStartFailed,
    ExportFailed,
    GenerationTimeout,
    ImportFailed,
    LakeFailed,
    LakeOvertaken,
    LitestreamUnavailable,
    NotAnEdgeStoreFile,
    PathTaken,
    ReplicaBehind,
    ReplicaNotFound,
    ReplicationError,
    ResponseTooLarge,
    RestoreFailed,
    RestoreTimedOut,
    SchemaTooNew,
    SinkFailed,
    SinkRefused,
    StoreError,
    UpstreamError,
    VerifyFailed,
    VulnerableSQLite,
    WriterStopped,
)
from edge_store.errors.callers import (
    AdmissionClosed,
    Cancelled,
    ClientDisconnected,
    ConcurrencyLimited,
    ConversationLocked,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    KeyExpired,
    KeyRevoked,
    MethodNotAllowed,
    NoRoomForAnswer,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    QueryRefused,
    QueueFull,
    RateLimited,
    RecorderFull,
    RequestError,
    RequestTimeout,
    ResultHeld,
    ShutDown,
    TenantOverShare,
    TimelineChanged,
    Unauthorized,
)
from edge_store.errors.root import (
    AddressTaken,
    ConfigError,
    EdgeStoreError,
    install,
    may_pass,
)

__all__ = [
    "AddressTaken", "AdmissionClosed", "AlreadyRunning", "ArchiveFailed", "BackupFailed",
    "BoxFoundTwice", "Cancelled", "ClientDisconnected", "ConcurrencyLimited", "ConfigError",
    "ConversationLocked", "Corrupt", "DiskBudgetSpent", "DiskFull", "EdgeStoreError",
    "EngineCrashed", "EngineError", "EngineRefused", "EngineStartFailed", "ExportFailed",
    "Forbidden", "GenerationTimeout", "IdempotencyConflict", "ImportFailed", "InvalidRequest",
    "KeyExpired", "KeyRevoked", "LakeFailed", "LakeOvertaken", "LitestreamUnavailable",
    "MethodNotAllowed", "NoRoomForAnswer", "NotAnEdgeStoreFile", "NotFound", "Overloaded",
    "PathTaken", "PayloadTooLarge", "QueryRefused", "QueueFull", "RateLimited", "RecorderFull",
    "ReplicaBehind", "ReplicaNotFound", "ReplicationError", "RequestError", "RequestTimeout",
    "ResponseTooLarge", "RestoreFailed", "RestoreTimedOut", "ResultHeld", "SchemaTooNew",
    "ShutDown", "SinkFailed", "SinkRefused", "StoreError", "TenantOverShare", "TimelineChanged",
    "Unauthorized", "UpstreamError", "VerifyFailed", "VulnerableSQLite", "WriterStopped",
    "install", "may_pass",
]  # fmt: skip
