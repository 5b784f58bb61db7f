"""The child that sends: apprise is loaded here, and never in the daemon.

It takes one ``Job`` as JSON on its standard input, sends its messages in order to the one URL of
it, and writes an ``Outcome`` a line; after the first failure it ends. Whoever started it kills it
when it takes too long. No line of it holds a piece of the URL, which is a secret.
"""

import logging
import os
import re
import signal
import sys
from typing import Any
from urllib.parse import unquote

import msgspec

__all__ = ["Job", "Letter", "Outcome", "scrubbed", "send"]

REASON_CHARS_MAX = 300
LETTER_TIMEOUT_S = 60
PIECE_CHARS_MIN = 4  # a shorter piece of a URL is no secret
COMMON = frozenset({"http", "https", "json", "jsons", "mailto", "mailtos"})


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One message in words. ``type`` is apprise's: info, success, warning, failure."""

    id: int
    title: str
    body: str
    type: str


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What one child does."""

    url: str
    letters: tuple[Letter, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one message; ``failure`` is None when it was taken."""

    id: int
    service: str
    failure: str | None


class Reasons(logging.Handler):
    """Keeps why apprise failed: what it warns of, and the exception it met."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING or "xception" in text:
            self.said.append(text.strip().replace("\n", " "))


def send(job: Job, tell: Any) -> None:
    """Send until something fails; ``tell`` is called with each ``Outcome``."""
    import apprise  # noqa: PLC0415  (the daemon imports the records above)

    reasons = Reasons()
    logger = logging.getLogger("apprise")
    logger.addHandler(reasons)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    asset = apprise.AppriseAsset(
        app_id="edge-store",
        app_desc="edge-store",
        app_url="",
        async_mode=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    service = apprise.Apprise.instantiate(job.url, asset=asset)
    if service is None:
        reason = "; ".join(reasons.said) or "apprise knows no such service"
        tell(Outcome(id=job.letters[0].id, service="none", failure=scrubbed(reason, job.url)))
        return
    for letter in job.letters:
        reasons.said.clear()
        try:
            is_taken = service.notify(
                title=letter.title,
                body=letter.body,
                notify_type=letter.type,
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception as exc:  # noqa: BLE001  (a hundred services, each with its own)
            is_taken = False
            reasons.said.append(f"{type(exc).__name__}: {exc}")
        failure = None
        if not is_taken:
            failure = scrubbed("; ".join(reasons.said) or "it was not taken", job.url)
        tell(Outcome(id=letter.id, service=str(service.service_name), failure=failure))
        if failure is not None:
            return


def scrubbed(reason: str, url: str) -> str:
    """``reason`` without any piece of ``url`` that could be a secret."""
    pieces = {url, *re.split(r"[/:@?&=,;#+]+", url)}
    pieces |= {unquote(piece) for piece in pieces}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= PIECE_CHARS_MIN and piece.lower() not in COMMON:
            reason = re.sub(re.escape(piece), "***", reason, flags=re.IGNORECASE)
    return reason[:REASON_CHARS_MAX]


def main() -> None:
    """One job, then the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    signal.alarm(LETTER_TIMEOUT_S * len(job.letters))  # if whoever would kill it was killed
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a plugin may print
    send(job, lambda outcome: output.write(msgspec.json.encode(outcome) + b"\n"))
    os._exit(0)  # whatever thread a plugin left


if __name__ == "__main__":
    main()
