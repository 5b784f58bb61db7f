"""Sends batches of results to a web hook, signed as standardwebhooks.com says.

What the receiver's answer says is not read: it may repeat what it was sent.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import msgspec

from edge_store import __version__
from edge_store.clock import now_ms, rfc3339
from edge_store.config import SinkSection
from edge_store.errors import ConfigError, SinkFailed, SinkRefused
from edge_store.sinks.sink import UNREACHED_HINT, Event, Place, certificate_hint, trusted, unreached

__all__ = ["Webhook", "signature"]

# A 4xx that is about the address, the key or the moment, and not about what was sent.
PASSING = frozenset({401, 403, 404, 405, 407, 408, 409, 410, 421, 425, 429})
ANSWER_BYTES_MAX = 64 * 1024  # read, so that the connection can be used again, and dropped
PREFIX = "whsec_"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``. A secret with the prefix ``whsec_`` is base64.

    Raises:
        ConfigError: it is not.
    """
    key = secret.encode()
    if secret.startswith(PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error as exc:
            raise ConfigError(f"a secret that begins with {PREFIX} is not base64") from exc
    signed = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(signed.digest()).decode()}"


class Webhook:
    """One receiver."""

    def __init__(self, config: SinkSection, place: Place, device_id: str) -> None:
        self._config, self._place, self._device_id = config, place, device_id
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Connects with the first delivery."""
        self._client = httpx.AsyncClient(
            timeout=self._config.timeout_s, follow_redirects=False, trust_env=False,
            limits=httpx.Limits(max_connections=1), verify=trusted(self._config),
        )  # fmt: skip

    async def deliver(self, events: Sequence[Event]) -> None:
        """POST them as one JSON object."""
        ids = ",".join(event.result.id for event in events)
        await self._post("results", ids, [msgspec.Raw(event.json) for event in events])

    async def try_out(self) -> str:
        """POST an object without results."""
        await self._post("test", f"test-{now_ms()}", [])
        return "it took a test, an object of no results"

    async def _post(self, what: str, ids: str, data: list[msgspec.Raw]) -> None:
        assert self._client is not None, "it is open"
        body = msgspec.json.encode({
            "object": f"edge_store.{what}", "sink": self._config.name,
            "device_id": self._device_id, "sent_at": rfc3339(now_ms()), "data": data,
        })  # fmt: skip
        message_id = f"msg_{hashlib.sha256(ids.encode()).hexdigest()[:32]}"
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"edge-store/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._place.secret:
            signed = await asyncio.to_thread(  # of 4 MiB: milliseconds
                signature, self._place.secret, message_id, timestamp, body
            )
            headers["webhook-signature"] = signed
        try:
            sending = self._client.stream("POST", self._place.url, content=body, headers=headers)
            async with sending as answer:
                _judge(answer.status_code, answer.headers.get("retry-after"))
                size = 0
                async for piece in answer.aiter_raw():
                    size += len(piece)
                    if size > ANSWER_BYTES_MAX:
                        break
        except (httpx.HTTPError, httpx.InvalidURL) as exc:  # whose text may have the URL
            raise SinkFailed(
                f"the web hook is not reached: {_why(exc)}",
                hint=certificate_hint(exc) or UNREACHED_HINT,
            ) from exc

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _judge(status: int, retry_after: str | None) -> None:
    if 200 <= status < 300:
        return
    message = f"the web hook answered {status}"
    if 400 <= status < 500 and status not in PASSING:
        raise SinkRefused(message)
    hint = "redirects are not followed: set the url to where it leads" if status < 400 else ""
    raise SinkFailed(message, hint=hint, after_s=_seconds(retry_after))


def _why(exc: Exception) -> str:
    is_plain = isinstance(exc, httpx.ConnectError) and not certificate_hint(exc)
    return (unreached(exc) if is_plain else "") or type(exc).__name__


def _seconds(retry_after: str | None) -> float:
    """Of the header Retry-After: a number, or a date; 0 where it says nothing."""
    if not retry_after:
        return 0.0
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
