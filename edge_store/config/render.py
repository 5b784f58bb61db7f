"""Writes settings as commented TOML: the shipped ``config/edge-store.toml`` and what ``init``
writes.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import msgspec

from edge_store.config.sections import Config, Section

__all__ = ["documented_settings", "render_toml"]

WIDTH = 96


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
        if section != table:
            table = section
            lines += ["", f"[{section}]"]
        lines += [f"# {line}" for line in textwrap.wrap(description, WIDTH)]
        if is_table:
            lines += [f"{k} = {_literal(v)}" for k, v in given.pop(key, {}).items()]
        elif key in given:
            lines.append(f"{name} = {_literal(given.pop(key))}")
        else:
            lines.append(f"#{name} = {_literal(default)}")
    assert not given, f"not settings: {sorted(given)}"
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    # A TOML basic string, number or boolean is written as JSON writes it.
    return json.dumps(value, ensure_ascii=False)
