"""structlog over the standard library: JSON under systemd, colours on a terminal, plain otherwise.

Events are past-tense snake_case, keys are column names. No prompt and no output text is ever
logged.
"""

import json
import logging
import os
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from edge_store.config import LogSection

__all__ = ["configure_logging"]

# sd-daemon(3): a line that begins with <N> has priority N
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def _journal_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    priority = PRIORITIES.get(str(event.get("level", "info")), 6)
    return f"<{priority}>{json.dumps(event, default=str)}"


def configure_logging(config: LogSection) -> None:
    """Send every logger of the process, uvicorn's and the engine's too, to standard output."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if "JOURNAL_STREAM" in os.environ:
        renderer = _journal_line
    elif sys.stdout.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(config.level.upper())
    for noisy in ("httpx", "httpcore", "aiosqlite", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
