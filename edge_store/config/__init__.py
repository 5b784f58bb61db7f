"""The settings: what they are (``sections``), where they come from (``load``), how they look."""

from edge_store.config.alerts import AlertsSection
from edge_store.config.credentials import read_credential, read_secrets
from edge_store.config.engines import DemoSection, EngineKind, EngineSection, UpstreamSection
from edge_store.config.load import Loaded, config_path, load, variables_of_settings
from edge_store.config.privacy import Detector, PrivacySection
from edge_store.config.profiles import PACES, Pace
from edge_store.config.render import ShownSetting, render_toml, shown_settings
from edge_store.config.sections import (
    Config,
    DeviceSection,
    LogSection,
    QueueSection,
    RecorderSection,
    RepairSection,
    ReplicaMode,
    ReplicaProfile,
    ReplicaSection,
    ResponsesSection,
    RetentionSection,
    SearchSection,
    ServerSection,
    StoreSection,
)
from edge_store.config.sinks import SinkBegin, SinkKind, SinkSection, require_scheme

__all__ = [
    "PACES",
    "AlertsSection",
    "Config",
    "DemoSection",
    "Detector",
    "DeviceSection",
    "EngineKind",
    "EngineSection",
    "Loaded",
    "LogSection",
    "Pace",
    "PrivacySection",
    "QueueSection",
    "RecorderSection",
    "RepairSection",
    "ReplicaMode",
    "ReplicaProfile",
    "ReplicaSection",
    "ResponsesSection",
    "RetentionSection",
    "SearchSection",
    "ServerSection",
    "ShownSetting",
    "SinkBegin",
    "SinkKind",
    "SinkSection",
    "StoreSection",
    "UpstreamSection",
    "config_path",
    "load",
    "read_credential",
    "read_secrets",
    "render_toml",
    "require_scheme",
    "shown_settings",
    "variables_of_settings",
]
