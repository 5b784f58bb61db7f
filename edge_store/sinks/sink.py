"""The one interface of what takes results: a new kind is one module, and a line in ``kinds``."""

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from edge_store.config import SinkSection, read_secrets, require_scheme
from edge_store.errors import ConfigError, SinkFailed
from edge_store.result import Recorded, Result
from edge_store.shown import public

__all__ = [
    "UNREACHED_HINT", "Event", "Place", "Sink", "certificate_hint", "event_of", "place_of", "reach",
    "trusted", "unreached",
]  # fmt: skip

SEVERAL = "none of its addresses answers"
UNREACHED_HINT = "see that its receiver runs, and that `url` of its [[sinks]] leads there"
# Of an output without bodies: what is known of it, and nothing that it says.
KNOWN = ("choice_index", "finish_reason", "json_state", "schema_valid", "constraint_holds")


class Event(NamedTuple):
    """A result on its way, as it is stored: what was redacted there is not here either. Its id is
    the result's, the same however often it is sent. ``json`` is it as a whole, made where it was
    read: a batch of them would hold up the event loop.
    """

    recorded: Recorded
    has_bodies: bool
    json: bytes

    @property
    def result(self) -> Result:
        """The result itself; its bodies' bytes are left out."""
        return self.recorded.result


def event_of(recorded: Recorded, *, has_bodies: bool) -> Event:
    """Its JSON is what ``GET /v1/results/{id}`` answers, and the prompt as text. On any thread."""
    shown = public(recorded)
    if has_bodies:
        shown["input_text"] = recorded.result.content.input_text
    else:
        del shown["error_message"], shown["metadata"]
        shown["outputs"] = [{name: each[name] for name in KNOWN} for each in shown["outputs"]]
    return Event(recorded, has_bodies, msgspec.json.encode(shown))


class Place(NamedTuple):
    """Where a sink is, and its secret. Not for a log."""

    url: str
    secret: str


class Sink(Protocol):
    """One of a kind. Each is called by one task, one call after the other, under a deadline: what
    is cancelled is closed, and opened again. Redirects are not followed, proxies of the environment
    not used.
    """

    async def open(self) -> None:
        """Connect.

        Raises:
            SinkFailed, OSError: it cannot be now.
            ConfigError: its settings are wrong.
        """

    async def deliver(self, events: Sequence[Event]) -> None:
        """Hand these over, in their order; they are taken when this returns.

        Raises:
            SinkRefused: they are not, for what they are; of several, some may be right.
            SinkFailed, OSError: they are not now. Some may have been taken; all are sent again.
        """

    async def try_out(self) -> str:
        """Do as much as can be done without a result; what came of it."""

    async def close(self) -> None:
        """Let go of the connection. Raises nothing that matters."""


def place_of(config: SinkSection) -> Place:
    """From the settings, and the secret that goes with them: one word, or two where one of them is
    the whole URL.

    Raises:
        ConfigError: there is no URL, or it is none for that kind.
    """
    words = read_secrets(config.credential, config.variable, config.secret_file)
    urls = [word for word in words if "://" in word]
    secrets = [word for word in words if "://" not in word]
    if len(urls) > 1 or len(secrets) > 1:
        raise ConfigError(
            f"the secret of the sink {config.name!r} has more than one word, URL aside",
            hint=f"see {config.credential}, {config.variable} and its secret_file",
        )
    url = urls[0] if urls else config.url
    if not url:
        raise ConfigError(
            f"the sink {config.name!r} has no url", hint="set it, or put it into its secret"
        )
    try:
        require_scheme(config.name, config.kind, url)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    return Place(url, secrets[0] if secrets else "")


def trusted(config: SinkSection) -> ssl.SSLContext:
    """Whom a sink's server is believed: the CAs of ``ca_file``, else the system's. Made for each
    connection, as a file may have been put right.

    Raises:
        ConfigError: the file is not there, or holds no certificates.
    """
    if not config.ca_file:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except OSError as exc:
        why = "is no PEM file of certificates" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise ConfigError(
            f"the ca_file of the sink {config.name!r}, {config.ca_file}, cannot be used: {why}",
            hint="it holds the CA's root: -----BEGIN CERTIFICATE-----",
        ) from exc


def certificate_hint(exc: BaseException) -> str:
    """What to do where the other side's certificate is what it failed for; else empty. Not which
    address it was.
    """
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return (
                "its certificate is not trusted, or is for another host: the root of a private CA "
                "belongs into the file that ca_file of its [[sinks]] names, or to the system's"
            )
        seen = seen.__cause__ or seen.__context__
    return ""


def unreached(exc: BaseException) -> str:
    """Why the other side is not reached, in the system's words; empty where that is not why."""
    seen: BaseException | None = exc
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        return ""
    if isinstance(seen, ssl.SSLCertVerificationError):
        return f"its certificate: {seen.verify_message.partition(',')[0]}"  # behind it the address
    if seen.errno is not None and not isinstance(seen, ssl.SSLError | socket.gaierror):
        return os.strerror(seen.errno)  # in asyncio's words it has the address
    if seen.errno is None and type(seen) is OSError:  # asyncio's, of several attempts
        cause = seen.__cause__
        return unreached(cause) if isinstance(cause, OSError) else SEVERAL
    return str(seen.strerror or type(seen).__name__)


async def reach(sink: Sink, timeout_s: float) -> str:
    """Connect to it and try it out.

    Raises:
        SinkFailed: it did not work.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await sink.open()
            return await sink.try_out()
    except TimeoutError:
        raise SinkFailed(f"no answer within {timeout_s:g} s", hint=UNREACHED_HINT) from None
    except OSError as exc:
        raise SinkFailed(
            f"it is not reached: {unreached(exc)}", hint=certificate_hint(exc) or UNREACHED_HINT
        ) from exc
    finally:
        await sink.close()
