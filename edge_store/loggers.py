"""Where each room has its logger from. What it says goes to standard error: what a command was
asked for is alone on standard output. A daemon sends it elsewhere: ``configure_logging``.

To import it takes a third of the start of a pull: what a command needs, and seldom logs, imports it
where it does.
"""

import sys

import structlog
from structlog import get_logger

__all__ = ["get_logger"]

if not structlog.is_configured():
    structlog.configure(logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr))
