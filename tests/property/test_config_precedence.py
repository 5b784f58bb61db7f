"""Settings: whichever layers set a key, the last of default < TOML < environment < flag counts."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_store.config import load
from edge_store.config.render import documented_settings

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "server.host": TEXT,
    "server.port": st.integers(0, 65535),
    "server.drain_timeout_s": st.floats(0, 1e9),
    "replica.enabled": st.booleans(),
    "device.id": st.from_regex(r"([a-z0-9][a-z0-9-]{0,62})?", fullmatch=True),
    "log.level": st.sampled_from(["debug", "info", "warning", "error"]),
    "engine.demo.token_delay_ms": st.floats(0, 1e9),
}
DEFAULTS = {key: default for key, _, default in documented_settings()}
LAYER = st.fixed_dictionaries({}, optional=VALUES)


def toml(values: dict[str, Any]) -> str:
    lines = []
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        literal = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        lines.append(f"{section}.{name} = {literal}")
    return "\n".join(lines)


def variable(key: str) -> str:
    return f"EDGE_STORE_{key.upper().replace('.', '__')}"


@given(file=LAYER, environment=LAYER, flags=LAYER)
def test_the_last_layer_that_sets_a_key_counts(
    tmp_path_factory: Any, file: dict[str, Any], environment: dict[str, Any], flags: dict[str, Any]
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "edge-store.toml"
    path.write_text(toml(file), encoding="utf-8")
    texts = {
        variable(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in environment.items()
    }

    loaded = load(str(path), overrides=flags, environ=texts)

    for key in VALUES:
        section, _, name = key.rpartition(".")
        found: Any = loaded.config
        for part in (*section.split("."), name):
            found = getattr(found, part)
        if key in flags:
            expected, origin = flags[key], "flag"
        elif key in environment:
            expected, origin = environment[key], variable(key)
        elif key in file:
            expected, origin = file[key], str(path)
        else:
            expected, origin = DEFAULTS[key], "default"
        assert (found, loaded.origins[key]) == (expected, origin), key
