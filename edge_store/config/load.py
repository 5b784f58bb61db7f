"""Reads the settings once: defaults < TOML file < environment < flags, each with its origin.

Whatever is unknown, malformed or missing is a ``ConfigError`` that names the key, the value and the
fix. Nothing is guessed and nothing is ignored.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from edge_store.config.bare import bare_key, bare_reason, bare_toml, bare_variable
from edge_store.config.section import A_VALUE, Section
from edge_store.config.sections import Config
from edge_store.config.sinks import VARIABLE
from edge_store.errors import ConfigError

__all__ = ["UNFINISHED", "Loaded", "config_path", "load", "variables_of_settings"]

ENVIRONMENT_PREFIX = "EDGE_STORE_"
# no settings: which file to read, and secrets that no file should hold
NO_SETTINGS = (
    "EDGE_STORE_CONFIG",
    "EDGE_STORE_UPSTREAM_API_KEY",
    "EDGE_STORE_ADMIN_KEY",
    "EDGE_STORE_ALERT_URLS",
    "EDGE_STORE_API_KEY",  # of the commands that ask the daemon (cli/batch.py)
)
BOUNDS = {
    "<=": "write at most", ">=": "write at least", "<": "write less than", ">": "write more than",
}  # fmt: skip
SYSTEM_PATH = Path("/etc/edge-store/edge-store.toml")
FREE = {"sglang": Any, "queries": str}  # tables of any names -> what their values are
UNFINISHED = ".unfinished"  # what `init` calls it until the database is there
COMPOUND = {  # what is JSON in a variable
    tuple: """write a list as JSON, as in '["email", "phone"]'""",
    dict: """write a table as JSON, as in '{"name": "value"}'""",
}


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The settings, the file they came from, and for each dotted key where its value was set."""

    config: Config
    path: Path | None
    origins: dict[str, str]


def config_path(flag: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read: ``--config``, ``$EDGE_STORE_CONFIG``, ``./edge-store.toml``, the system's.

    Raises:
        ConfigError: the file named by the flag or the variable is not there.
    """
    for origin, named in (
        ("--config", flag),
        ("EDGE_STORE_CONFIG", environ.get("EDGE_STORE_CONFIG")),
    ):
        if named:
            path = Path(named).expanduser()
            if is_folder := path.is_dir():
                path /= "edge-store.toml"
            if not path.is_file():
                hint = "write one with `edge-store init DIR`"
                if path.with_name(f"{path.name}{UNFINISHED}").exists():
                    hint = "an `edge-store init` was cut short there: give the same command again"
                what = f"no {path.name} in that folder" if is_folder else "no such file"
                raise ConfigError(f"{origin} = {named!r}: there is {what}", hint=hint)
            return path.absolute()
    for path in (Path("edge-store.toml"), SYSTEM_PATH):
        if path.is_file():
            return path.absolute()
    return None


def load(
    flag: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
    required: bool = True,
) -> Loaded:
    """Read, merge and validate. ``overrides`` are flags, by dotted key (``{"server.port": 0}``).

    Raises:
        ConfigError: no file was found and ``required``; or a key or value is wrong.
    """
    path = config_path(flag, environ)
    if path is None and required:
        raise ConfigError(
            "no configuration: neither --config, $EDGE_STORE_CONFIG, ./edge-store.toml "
            f"nor {SYSTEM_PATH}",
            hint="name a box with --config DIR, or make one: `edge-store init DIR`",
        )
    merged: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(_flatten(msgspec.to_builtins(Config())), "default")
    layers = [
        (str(path), _read_toml(path) if path else {}),
        *_environment(environ),
        *(
            (("flag"), {key: value})
            for key, value in (overrides or {}).items()
            if value is not None
        ),
    ]
    for origin, layer in layers:
        for key, value in (_flatten(layer) if origin == str(path) else layer).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(  # a wait of that length would have no end
                    f"{key} = {value} (in {origin}): not a finite number",
                    hint="set another value",
                    bare=f"{bare_key(key)} (in {_bare_origin(origin)}): not a finite number",
                )
            _put(merged, key, value)
            origins[key] = origin
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as exc:
        raise _explain(exc, merged, origins) from exc
    directory = path.parent if path else Path.cwd()
    return Loaded(config=config.resolved(directory), path=path, origins=origins)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as exc:  # also a number too long, arrays too deep
        is_twice = str(exc).startswith("Cannot ")  # declare, or overwrite: the parser's words
        hint = "the section or key is there already: change it where it is" if is_twice else ""
        raise ConfigError(
            f"{path} is not TOML: {exc}",
            hint=hint or "mend the line it names",
            bare=f"{path} is not TOML: {bare_toml(exc)}",
        ) from exc
    except OSError as exc:
        text = f"{path} cannot be read: {exc.strerror}"
        raise ConfigError(text, hint="check its owner and mode", bare=text) from exc


def variables_of_settings(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names of those that set something, or should: none that is a secret's."""
    ours = (name for name in sorted(environ) if name.startswith(ENVIRONMENT_PREFIX))
    return tuple(name for name in ours if name not in NO_SETTINGS and not name.startswith(VARIABLE))


def _environment(environ: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    """Each ``EDGE_STORE_SECTION__KEY``, converted to its field's type."""
    layers = []
    for name in variables_of_settings(environ):
        if "__" not in name:
            raise ConfigError(
                f"{name}: there is no such variable{_suggest_variable(name)}",
                hint="a setting's is EDGE_STORE_SECTION__KEY, as in EDGE_STORE_SERVER__PORT",
                bare=f"{_bare_origin(name)}: there is no such variable{_suggest_variable(name)}",
            )
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        try:
            kind = _field_type(key)
            text = environ[name]
            value = _converted(text, kind)
        except KeyError:
            raise ConfigError(
                f"{name}: there is no setting {key}{_suggest(key)}",
                hint="`edge-store config show --defaults` lists them all",
                bare=f"{_bare_origin(name)}: there is no setting {bare_key(key)}{_suggest(key)}",
            ) from None
        except msgspec.DecodeError as exc:  # ValidationError is one
            compound = COMPOUND.get(_shape(kind), "")
            raise ConfigError(
                f"{name} = {environ[name]!r}: {exc}{_choices(key)}",
                hint=compound or "set another value",
                bare=f"{_bare_origin(name)} = {A_VALUE}: {bare_reason(exc, str(exc))}"
                f"{_choices(key)}",
            ) from exc
        layers.append((name, {key: value}))
    return layers


def _converted(text: str, kind: Any) -> Any:
    """Raises ``msgspec.DecodeError``, ``ValidationError``: it is no ``kind``."""
    if kind is Any:
        return _guessed(text)
    if _shape(kind) in COMPOUND:
        return msgspec.json.decode(text, type=kind)
    return msgspec.convert(text, kind, strict=False)


def _shape(kind: Any) -> Any:
    """What a type is without its arguments and notes."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_origin(plain) or plain


def _guessed(text: str) -> Any:
    """A value whose type only SGLang knows: JSON where it is JSON, else the text."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _field_type(key: str) -> Any:
    """The annotated type of a dotted key. Raises ``KeyError`` when there is none."""
    section: Any = Config
    *tables, leaf = key.split(".")
    for table in tables:
        if section is dict:
            break
        section = get_type_hints(section)[table]
        if not (isinstance(section, type) and issubclass(section, Section)):
            return FREE[table] if table in FREE else _absent(key)
    hint = get_type_hints(section, include_extras=True)[leaf]
    return _absent(key) if isinstance(hint, type) and issubclass(hint, Section) else hint


def _choices(key: str) -> str:
    """The values that a setting may have, where they are few."""
    try:
        kind = _field_type(key)
    except KeyError:
        return ""
    is_list = False
    while get_args(kind):  # Annotated[kind, …], tuple[kind, ...]
        is_list = is_list or get_origin(kind) is tuple
        kind = get_args(kind)[0]
    is_enum = isinstance(kind, type) and issubclass(kind, StrEnum)
    if is_list and is_enum:
        return f"; each is one of {', '.join(kind)}"
    return f"; it is one of {', '.join(kind)}" if is_enum else ""


def _absent(key: str) -> Any:
    raise KeyError(key)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        # an empty one stays, for its name to be looked at
        if value and isinstance(value, Mapping) and key not in ("engine.sglang", "queries"):
            flat.update(_flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, leaf = key.split(".")
    for table in tables:
        child = tree.setdefault(table, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"{table} = {child!r} must be a table",
                hint=f"write it as [{table}]",
                bare=f"{bare_key(table)} = {A_VALUE} must be a table",
            )
        tree = child
    tree[leaf] = value


def _explain(
    exc: msgspec.ValidationError, merged: dict[str, Any], origins: Mapping[str, str]
) -> ConfigError:
    """Turn msgspec's message, which ends with the path, into ours, which begins with it."""
    text, _, path = str(exc).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if path.startswith("sinks["):
        return _explain_table(text, path, merged, bare_reason(exc, text))
    key = path.partition("[")[0]  # of a list, the whole of it is shown
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        key = f"{key}.{unknown[1]}".lstrip(".")
        return ConfigError(
            f"{key}: there is no such setting (in {_origin(key, origins)}){_suggest(key)}",
            hint="`edge-store config show --defaults` lists them all",
            bare=f"{bare_key(key)}: there is no such setting "
            f"(in {_bare_origin(_origin(key, origins))}){_suggest(key)}",
        )
    value: Any = merged
    for part in key.split(".") if key else []:
        value = value.get(part) if isinstance(value, dict) else None
    bare = bare_reason(exc, text)
    is_setting = key in _flatten(msgspec.to_builtins(Config()))
    if isinstance(value, dict) and not is_setting:  # a rule across fields: it names the key itself
        is_of_one = bool(key) or text.count(" = ") == 1
        place = f" in [{key}]" if key else ""
        hint = f"set another value{place}; docs/configuration.md lists them"
        if not isinstance(exc.__cause__, ValueError):
            bare = f"{bare_key(key)}: {bare}"
        return ConfigError(text, hint=hint if is_of_one else "change one of the two", bare=bare)
    bound = re.fullmatch(r"Expected `\w+` ([<>]=?) (\S+)", text)
    return ConfigError(
        f"{key} = {value!r} (in {_origin(key, origins)}): {text}{_choices(key)}",
        hint=f"{BOUNDS[bound[1]]} {bound[2]}" if bound else "set another value",
        bare=f"{bare_key(key)} = {A_VALUE} (in {_bare_origin(_origin(key, origins))}): "
        f"{bare}{_choices(key)}",
    )


def _explain_table(text: str, path: str, merged: dict[str, Any], bare: str) -> ConfigError:
    """Of a list of tables one value is shown, and none where the rule is across them: another of
    the table may be a secret that is not to be there.
    """
    key, _, rest = path.partition("[")
    number, _, name = rest.partition("].")
    hint = f"set another value; docs/{key}.md lists them"
    if not name:
        is_rule = text.startswith(f"{key}: ")
        bare = bare if is_rule else f"{bare_key(path)}: {bare}"
        return ConfigError(text if is_rule else f"{path}: {text}", hint=hint, bare=bare)
    value = merged[key][int(number)].get(name)
    shown = "" if name == "url" else f" = {value!r}"
    bare = f"{bare_key(path)} = {A_VALUE}: {bare}"
    return ConfigError(f"{path}{shown}: {text}", hint=hint, bare=bare)


def _bare_origin(origin: str) -> str:
    is_variable = origin.startswith(ENVIRONMENT_PREFIX)
    return bare_variable(origin, ENVIRONMENT_PREFIX) if is_variable else origin


def _origin(key: str, origins: Mapping[str, str]) -> str:
    exact = origins.get(key)
    if exact:
        return exact
    return next((o for k, o in origins.items() if k.startswith(f"{key}.")), "the configuration")


def _suggest(key: str) -> str:
    near = difflib.get_close_matches(key, _flatten(msgspec.to_builtins(Config())), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _suggest_variable(name: str) -> str:
    keys = _flatten(msgspec.to_builtins(Config()))
    variables = [ENVIRONMENT_PREFIX + key.upper().replace(".", "__") for key in keys]
    near = difflib.get_close_matches(name, [*variables, *NO_SETTINGS], n=1)
    return f"; did you mean {near[0]}?" if near else ""
