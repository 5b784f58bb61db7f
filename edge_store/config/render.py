"""Writes settings out: as commented TOML (the shipped ``config/edge-store.toml``, and what ``init``
writes), and as what is in force, without secrets.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_type_hints

import msgspec

from edge_store.config.load import Loaded
from edge_store.config.replica import LEAST_S
from edge_store.config.section import Section
from edge_store.config.sections import Config
from edge_store.config.sinks import SECRET_NAME, SinkSection

__all__ = [
    "ShownSetting",
    "documented_settings",
    "documented_tables",
    "render_toml",
    "shown_settings",
]

WIDTH = 96

HIDDEN = "(hidden)"
# Where a secret may be put by mistake: http://user:password@host, ?secret=…
USER_INFO = re.compile(
    r"(?<=://)(?!(?<=sftp://)[^/@?:]*@|(?<=abs://)[^/@?:]*@)[^/@?]*@"
)  # a user is no secret
PUBLIC = (
    "endpoint|region|path_style|kms_key|concurrency|host_key|key_file"  # options of replica.url
)
OPTION = re.compile(rf"([?&])(?!(?:{PUBLIC})=)([^=&]+)=[^&]*")


class ShownSetting(NamedTuple):
    """One setting as it is shown."""

    key: str
    value: Any
    origin: str


def documented_settings(
    section: type[Section] = Config, prefix: str = ""
) -> Iterator[tuple[str, str, Any]]:
    """Every setting as (dotted key, meaning, default), in the order of the sections."""
    hints = get_type_hints(section, include_extras=True)
    plain = get_type_hints(section)
    defaults = section()
    for name, hint in hints.items():
        kind = plain[name]
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from documented_settings(kind, f"{prefix}{name}.")
        else:
            description = next(
                m.description for m in hint.__metadata__ if isinstance(m, msgspec.Meta)
            )
            yield f"{prefix}{name}", description or "", getattr(defaults, name)


def documented_tables() -> Iterator[tuple[str, str, Any]]:
    """One of ``[[sinks]]``, as ``documented_settings``; what must be given has no default."""
    for field in msgspec.structs.fields(SinkSection):
        note = next(m for m in field.type.__metadata__ if isinstance(m, msgspec.Meta))
        yield field.name, note.description or "", field.default


def render_toml(values: Mapping[str, Any] | None = None) -> str:
    """Every setting with its meaning. Those in ``values`` are set; the others show their default,
    commented out, so that a newer version's default takes effect.
    """
    given = dict(values or {})
    lines = [
        "# edge-store: the settings of one box; `edge-store config show` prints those in force."
    ]
    table = ""
    for key, description, default in documented_settings():
        is_table = isinstance(default, dict)
        section, _, name = (key, "", "") if is_table else key.rpartition(".")
        if not section:
            lines += [""]
        elif section != table:
            table = section
            lines += ["", f"[{section}]"]
        lines += [f"# {line}" for line in textwrap.wrap(description, WIDTH)]
        if isinstance(default, tuple) and not section:
            lines += _example_table(key)
        elif is_table:
            lines += [f"{k} = {_literal(v)}" for k, v in given.pop(key, {}).items()]
        elif key in given:
            lines.append(f"{name} = {_literal(given.pop(key))}")
        else:
            lines.append(f"#{name} = {_literal(default)}")
    assert not given, f"not settings: {sorted(given)}"
    return "\n".join(lines) + "\n"


def _example_table(key: str) -> Iterator[str]:
    yield f"#[[{key}]]"
    for name, description, default in documented_tables():
        yield from (f"# {line}" for line in textwrap.wrap(description, WIDTH))
        shown = {"name": "warehouse", "kind": "webhook"}.get(name, default)
        yield f"#{name} = {_literal(shown)}"


def shown_settings(loaded: Loaded) -> list[ShownSetting]:
    """Every setting in force and where it was set; what could be a secret is hidden. A 0 that
    stands for the profile's is shown as what that is.
    """
    values = msgspec.to_builtins(loaded.config)
    pace = msgspec.to_builtins(loaded.config.replica.pace)
    of_profile = {f"replica.{name}": pace[name] for name in LEAST_S}
    settings = []
    for key, _, _ in documented_settings():
        value = values
        for part in key.split("."):
            value = value[part]
        origins = [o for k, o in loaded.origins.items() if k == key or k.startswith(f"{key}.")]
        origin = ", ".join(dict.fromkeys(origins)) or "default"
        if not value and key in of_profile:
            value, origin = of_profile[key], f"replica.profile = {loaded.config.replica.profile}"
        settings.append(ShownSetting(key, _without_secrets(key, value), origin))
    return settings


def _without_secrets(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_secrets(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(name, each) for each in value]
    if SECRET_NAME.search(name) and value:
        return HIDDEN
    if isinstance(value, str) and "://" in value:
        return OPTION.sub(rf"\1\2={HIDDEN}", USER_INFO.sub(f"{HIDDEN}@", value))
    return value


def _literal(value: Any) -> str:
    # A TOML basic string, number or boolean is written as JSON writes it, but for U+007F.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
