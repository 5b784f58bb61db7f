"""The exit statuses of every command, which docs/operations.md lists."""

__all__ = [
    "CONFIG",
    "CORRUPT",
    "EMPTY",
    "ENGINE",
    "FAILURE",
    "INTERRUPTED",
    "NOT_OURS",
    "NO_PERMISSION",
    "SCHEMA_TOO_NEW",
    "TEMPORARY",
    "TERMINATED",
]

FAILURE = 1
EMPTY = 3  # with --fail-empty: no rows
CONFIG = 78  # sysexits.h EX_CONFIG
CORRUPT = 65  # EX_DATAERR
NOT_OURS = 66  # EX_NOINPUT: the file is not what it should be
SCHEMA_TOO_NEW = 76  # EX_PROTOCOL
ENGINE = 70  # EX_SOFTWARE: the engine died; a restart mends it
TEMPORARY = 75  # EX_TEMPFAIL
INTERRUPTED = 130  # as a shell shows SIGINT
TERMINATED = 143  # and SIGTERM
NO_PERMISSION = 77  # EX_NOPERM
