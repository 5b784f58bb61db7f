"""Publishes results to an MQTT broker, one message each, with QoS 1."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from edge_store.config import SinkSection
from edge_store.errors import ConfigError, SinkFailed, SinkRefused, install
from edge_store.sinks.sink import UNREACHED_HINT, Event, Place, certificate_hint, trusted, unreached

__all__ = ["Mqtt", "topic_of"]

PORTS = {"mqtt": 1883, "mqtts": 8883}
NO_LEVEL = re.compile(r"[+#/\x00]")  # what a value must not bring into a topic


def topic_of(template: str, event: Event) -> str:
    """The topic of a result."""
    result = event.result
    values = {
        "device": result.device_id,
        "model": result.response_model or result.request_model,
        "tenant": result.tenant,
        "status": result.status.value,
        "operation": result.operation.value,
    }
    levels = {name: NO_LEVEL.sub("_", value or "-") for name, value in values.items()}
    return template.format_map(levels)


class Mqtt:
    """One broker."""

    def __init__(self, config: SinkSection, place: Place, device_id: str) -> None:
        try:
            import aiomqtt  # noqa: PLC0415  (an extra)
        except ImportError:
            raise ConfigError("a sink of kind mqtt needs aiomqtt", hint=install("mqtt")) from None
        self._library: Any = aiomqtt
        self._config, self._place, self._device_id = config, place, device_id
        self._client: Any = None

    async def open(self) -> None:
        """Connect."""
        url = urlsplit(self._place.url)
        password = self._place.secret or (unquote(url.password) if url.password else None)
        client = self._library.Client(
            url.hostname,
            url.port or PORTS[url.scheme],
            username=unquote(url.username) if url.username else None,
            password=password,
            identifier=f"edge-store-{self._device_id}-{self._config.name}",
            tls_context=trusted(self._config) if url.scheme == "mqtts" else None,
            timeout=self._config.timeout_s,
        )
        client.pending_calls_threshold = self._config.batch_rows  # else each beyond 10 is logged
        try:
            await client.__aenter__()
        except self._library.MqttError as exc:
            raise _failed(exc) from exc
        self._client = client

    async def deliver(self, events: Sequence[Event]) -> None:
        """Publish them in order; they are taken when the broker has acknowledged each."""
        topics = [topic_of(self._config.topic, event) for event in events]
        sent = [
            self._client.publish(topic, event.json, qos=1)
            for topic, event in zip(topics, events, strict=True)
        ]
        try:
            for failure in await asyncio.gather(*sent, return_exceptions=True):
                if failure is not None:
                    raise failure
        except self._library.MqttError as exc:
            raise _failed(exc) from exc
        except ValueError as exc:  # it would be so each time
            raise SinkRefused("over 256 MB, or its topic over 64 KiB: no message of MQTT") from exc

    async def try_out(self) -> str:
        """Publish an object without a result below the topic."""
        body = msgspec.json.encode({"object": "edge_store.test", "sink": self._config.name})
        topic = f"edge-store/{self._device_id}/test"
        try:
            await self._client.publish(topic, body, qos=1)
        except self._library.MqttError as exc:
            raise _failed(exc) from exc
        return f"it took a message to {topic}"

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)


def _failed(exc: Exception) -> SinkFailed:
    """The library's words have the address at most; but nobody promises that they stay so."""
    if why := unreached(exc):
        said = f"the broker is not reached: {why}"
        return SinkFailed(said, hint=certificate_hint(exc) or UNREACHED_HINT)
    code = getattr(exc, "rc", None)
    said = f"MQTT: {type(exc).__name__}" + (f" {code}" if code is not None else "")
    return SinkFailed(said)
