"""What a centre knows of its fleet beforehand: ``fleet.toml`` in the folder of the copies.

Where boxes replicate to, which of them are ours, what they are labelled with, where the lake is,
and queries by name. All of it is optional. No secret is in it: a store names its keys, and they
come from systemd or the environment. What is unknown or malformed is a ``ConfigError`` that says
where.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge_store.config.alerts import QUIET_HOURS, AlertsSection
from edge_store.config.section import Section
from edge_store.errors import ConfigError
from edge_store.ids import DeviceId
from edge_store.replica.extent import DEVICE_ID
from edge_store.replica.location import Location, parse_location

__all__ = [
    "FILE_NAME",
    "LABEL_NAME",
    "FleetAlerts",
    "Registry",
    "Store",
    "load_registry",
    "parse_registry",
]

FILE_NAME = "fleet.toml"
LABEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
HINT = "docs/fleet.md lists what fleet.toml may hold"


class Store(Section, frozen=True, kw_only=True):
    """One place that boxes replicate to."""

    name: Annotated[
        str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z", description="What reports call it.")
    ]
    url: Annotated[
        str,
        Meta(
            min_length=1,
            description="As in a box's `replica.url`, or a folder; relative to this file's.",
        ),
    ]
    credentials: Annotated[
        str,
        Meta(
            pattern=r"^([a-z][a-z0-9-]{0,62})?\Z",
            description="Which keys: of `site-a`, the variables are SITE_A_AWS_ACCESS_KEY_ID and "
            "so on, and systemd's credentials site-a-aws-access-key-id and so on. Empty: those "
            "without a prefix.",
        ),
    ] = ""
    include: Annotated[
        tuple[str, ...],
        Meta(description="Device ids, or patterns with * and ?, that are ours. Empty: all."),
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Meta(description='Those of them that are not, as ["test-*"].')
    ] = ()

    def takes(self, device_id: DeviceId) -> bool:
        """Whether a box that is found there is one of the fleet."""
        is_in = not self.include or _matches(device_id, self.include)
        return is_in and not _matches(device_id, self.exclude)

    def location(self, environ: Mapping[str, str] = os.environ) -> Location:
        """The place. Raises ``ConfigError``: the URL is none."""
        return parse_location(
            self.url, key=f"the url of store {self.name}", keys=self.credentials, environ=environ
        )


class FleetAlerts(Section, frozen=True, kw_only=True):
    """How `fleet health --alarms` tells people; see a box's `[alerts]`."""

    urls_file: Annotated[
        str,
        Meta(
            description="A file with the addresses that alarms go to, one apprise URL a line; "
            "relative to this file's folder. The systemd credential alert-urls and "
            "EDGE_STORE_ALERT_URLS come before it."
        ),
    ] = ""
    quiet_hours: Annotated[
        str,
        Meta(
            pattern=QUIET_HOURS,
            description="When only urgent alarms are told, as in 22:00-07:00.",
        ),
    ] = ""
    timezone: Annotated[str, Meta(description="Of the quiet hours. Empty: the machine's own.")] = ""
    rate_s: Annotated[
        float,
        Meta(ge=0, description="An alarm that comes back is not told again sooner than this."),
    ] = 600.0
    remind_s: Annotated[
        float, Meta(ge=0, description="How often one that goes on is told again; 0: never.")
    ] = 86400.0

    def __post_init__(self) -> None:
        _ = self.section  # which checks the hours

    @property
    def section(self) -> AlertsSection:
        """As a box has it. What a look finds has held for long enough."""
        return AlertsSection(after_s=0.0, **msgspec.structs.asdict(self))


class Registry(Section, frozen=True, kw_only=True):
    """All of ``fleet.toml``."""

    stores: Annotated[
        tuple[Store, ...], Meta(description="Where `fleet pull` without --from looks for boxes.")
    ] = ()
    labels: Annotated[
        dict[DeviceId, dict[str, str]],
        Meta(description="By device id, what a box is labelled with: `fleet label` writes them."),
    ] = msgspec.field(default_factory=dict)
    lake: Annotated[
        str | None, Meta(description="A folder, relative to this file's, or a URL.")
    ] = None
    alerts: Annotated[
        FleetAlerts, Meta(description="How `fleet health --alarms` tells people.")
    ] = FleetAlerts()
    queries: Annotated[
        dict[str, str], Meta(description="SQL by name, for `fleet query @NAME`.")
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [store.name for store in self.stores]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stores are called {name!r}")
        for device_id, labels in self.labels.items():
            if not DEVICE_ID.fullmatch(device_id):
                raise ValueError(f"labels.{device_id}: {device_id!r} is no device id")
            for name, value in labels.items():
                _require_name(name, f"labels.{device_id}")
                if not value or not value.isprintable():
                    raise ValueError(f"labels.{device_id}.{name} = {value!r} is empty or no text")
        for name in self.queries:
            _require_name(name, "queries")

    def is_labelled(self, device_id: DeviceId, group: Mapping[str, str]) -> bool:
        """Whether a box has all of these labels. The empty group is every box."""
        return group.items() <= self.labels.get(device_id, {}).items()


def load_registry(folder: Path, environ: Mapping[str, str] = os.environ) -> Registry:
    """What ``fleet.toml`` in ``folder`` says, with paths absolute; nothing where there is none.

    Raises:
        ConfigError: it is not TOML, or something in it is unknown or malformed.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Registry()
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8: {exc}", hint="save it as UTF-8") from exc
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be read: {exc.strerror}", hint="check its owner and mode"
        ) from exc
    registry = parse_registry(text, path)
    stores = tuple(
        msgspec.structs.replace(store, url=_placed(folder, store.url)) for store in registry.stores
    )
    for store in stores:
        store.location(environ)
    lake = registry.lake and _placed(folder, registry.lake)
    alerts = registry.alerts
    if alerts.urls_file:
        file = _placed(folder, alerts.urls_file)
        alerts = msgspec.structs.replace(alerts, urls_file=file)
    return msgspec.structs.replace(registry, stores=stores, lake=lake, alerts=alerts)


def parse_registry(text: str, path: Path) -> Registry:
    """As it is written; ``path`` names it in messages.

    Raises:
        ConfigError: see ``load_registry``.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}", hint="mend the line it names") from exc
    try:
        return msgspec.convert(tree, Registry)
    except msgspec.ValidationError as exc:
        raise _explained(exc, path, tree) from exc


def _explained(exc: msgspec.ValidationError, path: Path, tree: dict[str, Any]) -> ConfigError:
    """The message, which ends with the path, with that before it."""
    text, _, place = str(exc).partition(" - at `$")
    key = _named(place.rstrip("`").lstrip("."), tree)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        known: Any = Store if key else Registry
        near = difflib.get_close_matches(unknown[1], known.__struct_fields__, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        key = f"{key}.{unknown[1]}".lstrip(".")
        return ConfigError(f"{path}: {key}: there is no such key{meant}", hint=HINT)
    return ConfigError(f"{path}: {f'{key}: ' if key else ''}{text}", hint=HINT)


def _named(place: str, tree: dict[str, Any]) -> str:
    """The path of what is wrong, with the names of the person's own that msgspec leaves out: of a
    box in ``[labels]``, of its label, of a query.
    """
    table, *steps = place.split("[...]")
    for name, value in tree[table].items() if steps else ():
        if len(steps) == 2 and isinstance(value, dict):
            wrong = next((own for own, each in value.items() if not isinstance(each, str)), None)
            if wrong is not None:
                return f"{table}.{name}.{wrong}"
        elif len(steps) == 1 and not isinstance(value, dict if table == "labels" else str):
            return f"{table}.{name}"
    return place


def _require_name(name: str, where: str) -> None:
    if not LABEL_NAME.fullmatch(name):
        raise ValueError(
            f"{where}: {name!r} is no name: lower-case letters, digits, - and _, after a letter"
        )


def _matches(device_id: DeviceId, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(device_id, pattern) for pattern in patterns)


def _placed(folder: Path, place: str) -> str:
    """A URL as it is, a folder as an absolute path."""
    return place if "://" in place else str((folder / place).expanduser().absolute())
