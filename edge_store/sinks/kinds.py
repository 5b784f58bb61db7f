"""Which kinds of sinks there are. Each is imported when it is used: its library may be missing."""

from edge_store.config import SinkKind, SinkSection
from edge_store.sinks.sink import Place, Sink

__all__ = ["make_sink"]


def make_sink(config: SinkSection, place: Place, device_id: str) -> Sink:
    """One that is not open yet.

    Raises:
        ConfigError: its library is not installed.
    """
    match config.kind:
        case SinkKind.WEBHOOK:
            from edge_store.sinks.webhook import Webhook  # noqa: PLC0415  (see above)

            return Webhook(config, place, device_id)
        case SinkKind.POSTGRES:
            from edge_store.sinks.postgres import Postgres  # noqa: PLC0415

            return Postgres(config, place)
        case SinkKind.MQTT:
            from edge_store.sinks.mqtt import Mqtt  # noqa: PLC0415

            return Mqtt(config, place, device_id)
