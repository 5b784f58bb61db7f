"""The engine, the disk, the replica, the lake and the sinks."""

from edge_store import exits
from edge_store.errors.root import EdgeStoreError, may_pass

__all__ = [
    "AlreadyRunning",
    "ArchiveFailed",
    "BackupFailed",
    "BoxFoundTwice",
    "Corrupt",
    "DiskBudgetSpent",
    "DiskFull",
    "EngineCrashed",
    "EngineError",
    "EngineRefused",
    "EngineStartFailed",
    "ExportFailed",
    "GenerationTimeout",
    "ImportFailed",
    "LakeFailed",
    "LakeOvertaken",
    "LitestreamUnavailable",
    "NotAnEdgeStoreFile",
    "PathTaken",
    "ReplicaBehind",
    "ReplicaNotFound",
    "ReplicationError",
    "ResponseTooLarge",
    "RestoreFailed",
    "RestoreTimedOut",
    "SchemaTooNew",
    "SinkFailed",
    "SinkRefused",
    "StoreError",
    "UpstreamError",
    "VerifyFailed",
    "VulnerableSQLite",
    "WriterStopped",
]


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
    """The database could not be rebuilt from the replica."""

    code = "restore_failed"


class RestoreTimedOut(ReplicationError):
    """The database was not rebuilt in the time that there was; nothing says that it cannot be."""

    code = "restore_timed_out"
    retryable = True


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


class ExportFailed(EdgeStoreError):
    """Where an export goes does not take it; what it took before is there."""

    code = "export_failed"
    retryable = True


class ImportFailed(EdgeStoreError):
    """What is to be imported cannot be read; what was taken before is in."""

    code = "import_failed"


class ArchiveFailed(EdgeStoreError):
    """The archive could not be written or read; nothing of it was deleted."""

    code = "archive_failed"
    retryable = True


class BackupFailed(EdgeStoreError):
    """No backup was written, or read."""

    code = "backup_failed"


class SinkFailed(EdgeStoreError):
    """A sink takes nothing at present. ``str`` has no secret, and nothing of a result."""

    code = "sink_failed"
    retryable = True

    def __init__(self, message: str, *, hint: str = "", after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s  # it asked for so long a pause


class SinkRefused(EdgeStoreError):
    """A sink does not take these results, for what they are."""

    code = "sink_refused"
