"""What goes wrong with an upstream server, told in our errors: its address and the cause."""

import contextlib
from collections.abc import Iterator

import httpx

from edge_store.config import UpstreamSection
from edge_store.errors import GenerationTimeout, InvalidRequest, UpstreamError

__all__ = ["REASON_CHARS_MAX", "translated"]

REASON_CHARS_MAX = 300  # an error message may quote what the server sent


@contextlib.contextmanager
def translated(config: UpstreamSection, address: str) -> Iterator[None]:
    """Raise httpx's errors as ours."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise UpstreamError(
            f"{address} did not accept a connection within "
            f"engine.upstream.connect_timeout_s = {config.connect_timeout_s} s",
            hint="check that the server runs and that nothing between drops the packets",
        ) from exc
    except httpx.PoolTimeout as exc:
        raise UpstreamError(
            f"all engine.upstream.connections_max = {config.connections_max} connections to "
            f"{address} are in use; none came free within {config.connect_timeout_s} s",
            hint="raise engine.upstream.connections_max, or lower recorder.slots to it",
        ) from exc
    except (httpx.ReadTimeout, httpx.WriteTimeout) as exc:
        what = "sent" if isinstance(exc, httpx.ReadTimeout) else "took"
        raise GenerationTimeout(
            f"{address} {what} nothing for "
            f"engine.upstream.read_timeout_s = {config.read_timeout_s} s"
        ) from exc
    except httpx.ConnectError as exc:
        raise UpstreamError(
            f"cannot connect to {address}: {_reason(exc)}",
            hint="check that the server runs and that engine.upstream.base_url is its address",
        ) from exc
    except httpx.LocalProtocolError as exc:
        raise InvalidRequest(f"the request cannot be passed on: {_reason(exc)}") from exc
    except httpx.RemoteProtocolError as exc:
        raise UpstreamError(f"{address} broke the HTTP protocol: {_reason(exc)}") from exc
    except httpx.HTTPError as exc:
        raise UpstreamError(f"the connection to {address} broke: {_reason(exc)}") from exc


def _reason(exc: BaseException) -> str:
    """The deepest cause that says something: httpx, httpcore and anyio each wrap the one below."""
    reason = type(exc).__name__
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # one for each address of the host
            cause = cause.exceptions[-1]
        reason = str(cause) or reason
        cause = cause.__cause__ or cause.__context__  # httpcore keeps its cause as context only
    return reason[:REASON_CHARS_MAX]
