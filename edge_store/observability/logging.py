"""structlog to standard output: JSON under systemd and in pipes, colours on a terminal.

Events are past-tense snake_case, keys are column names. No prompt and no output text is ever
logged. Our own events are written directly, since there is one for each request; what libraries log
through the standard library comes out in the same form.
"""

import logging
import os
import sys

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from edge_store.config import LogSection

__all__ = ["configure_logging"]

# sd-daemon(3): a line that begins with <N> has priority N
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
ORDINARY_PRIORITY = 6

NOISY = ("httpx", "httpcore", "aiosqlite", "uvicorn.error")


def configure_logging(config: LogSection) -> None:
    """Send every logger of the process, uvicorn's and the engine's too, to standard output."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    line = _line()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                line,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


def _line() -> Processor:
    if "JOURNAL_STREAM" in os.environ:
        return _journal_line
    if sys.stdout.isatty():
        return structlog.dev.ConsoleRenderer()
    return _json_line


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _journal_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    priority = PRIORITIES.get(str(event.get("level")), ORDINARY_PRIORITY)
    return f"<{priority}>{_json_line(logger, method, event)}"
