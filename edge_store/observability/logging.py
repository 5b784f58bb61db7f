"""structlog to standard output: JSON under systemd and in pipes, colours on a terminal.

Events are past-tense snake_case, keys are column names. No prompt and no output text is ever
logged: of an exception that may quote one, which is any that is not about the disk, the settings
or the replica, the log has the type and the frames; its message is in the row. Our own events are
written directly, since there is one for each request; what libraries log through the standard
library comes out in the same form.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from edge_store.config import LogSection
from edge_store.errors import ConfigError, ReplicationError, StoreError

__all__ = ["LogOutput", "configure_logging"]

# sd-daemon(3): a line that begins with <N> has priority N
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
ORDINARY_PRIORITY = 6

OURS = (ConfigError, StoreError, ReplicationError)  # whose messages quote nothing of a request
NOISY = ("httpx", "httpcore", "aiosqlite", "uvicorn.error")


def configure_logging(config: LogSection) -> None:
    """Send every logger of the process, uvicorn's and the engine's too, to standard output."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    line = _line()
    output = LogOutput(sys.stdout)
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                without_messages,
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
        processors=[*shared, without_messages, line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(output),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


class LogOutput:
    """Where the log goes. What it does not take, as on a full disk, is lost, and told as soon as it
    takes something again; whoever logs goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> int:
        """Whole lines."""
        if self._lost:
            lost = {"event": "log_lines_lost", "count": self._lost, "level": "warning"}
            if self._is_taken(f"{msgspec.json.encode(lost).decode()}\n"):
                self._lost = 0
        if not self._is_taken(text):
            self._lost += 1
        return len(text)

    def _is_taken(self, text: str) -> bool:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True

    def flush(self) -> None:
        """They are."""


without_messages = structlog.processors.ExceptionRenderer(
    lambda info: "\n".join(_described(info[1])) if info[1] is not None else ""
)


def _described(exc: BaseException) -> Iterator[str]:
    """The exception and what led to it, the first first; the messages only of our own."""
    before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if before is not None:
        yield from _described(before)
        yield "\nand then:\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(exc.__traceback__)).rstrip("\n")
    message = f": {exc}" if isinstance(exc, OURS) else ""
    yield f"{type(exc).__module__}.{type(exc).__qualname__}{message}"
    for inner in exc.exceptions if isinstance(exc, BaseExceptionGroup) else ():
        yield "\nof which:\n"
        yield from _described(inner)


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
