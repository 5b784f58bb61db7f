"""What can be found in a file of settings that cannot be read: names and secrets, to be hidden, and
where the database is. All of it is a guess; nothing of it is shown.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_store.config import SinkKind, StoreSection
from edge_store.config.load import SYSTEM_PATH
from edge_store.config.render import documented_settings
from edge_store.config.section import is_there
from edge_store.config.sinks import SECRET_NAME
from edge_store.support.settings import PLAIN, SETTING, TABLE, WORDS

__all__ = ["database_of", "names_in", "secrets_in", "text_of"]

FILE_BYTES_MAX = 256 * 1024
SECRET_BYTES_MAX = 64 * 1024
SYSTEM_DATA = Path("/var/lib/edge-store")  # of a box that `scripts/install` made
PATH_VARIABLE = "EDGE_STORE_STORE__PATH"
QUOTED = re.compile(r"\"([^\"\n]*)\"|'([^'\n]*)'")
# Also within a table of one line, and in a remark: what is set to the end of the line.
PAIR = re.compile(r"([\w-]+)[\"']?[ \t]*=[ \t]*(?=([^\r\n]*))", re.ASCII)
FILES = re.compile(r"(?:_file|^tls_key)$")  # settings that name one
PUBLIC_FILES = ("ca_file",)


def text_of(path: Path) -> str:
    """Its beginning; empty where it may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


def names_in(text: str) -> set[str]:
    """What is set to a text there, but to a default or a choice: names of hosts, tenants, devices
    that the settings would tell if they could be read.
    """
    found: set[str] = set()
    for line in text.splitlines():
        if setting := SETTING.match(line):
            quoted = [pair[0] or pair[1] for pair in QUOTED.findall(setting[4])]
            # where a quote is missing, as often in such a file, each word may be one
            found |= set(quoted or WORDS.findall(setting[4].partition("#")[0]))
    return {name for name in found if not PLAIN.fullmatch(name)} - _choices()


def _choices() -> set[str]:
    """What names nobody: defaults, and the words that a setting may have."""
    defaults = [default for _, _, default in documented_settings()]
    kinds: set[type[StrEnum]] = {type(each) for each in defaults if isinstance(each, StrEnum)}
    kinds.add(SinkKind)
    return {str(each) for each in (*defaults, *(word for kind in kinds for word in kind))}


def database_of(path: Path, text: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The database of the box with these settings: the one that they name, that of an installed
    box, the one beside them. None: there is none of these.
    """
    named = [environ.get(PATH_VARIABLE, ""), *_store_paths(text)]
    if path.resolve() == SYSTEM_PATH.resolve():
        named.append(str(SYSTEM_DATA / StoreSection().path))
    named.append(StoreSection().path)
    places = (path.parent / Path(each) for each in named if each)
    return next((place.absolute() for place in places if _is_file(place)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # what may not be looked at is there: who opens it says why not
        return "\0" not in str(path) and is_there(path)


def _store_paths(text: str) -> Iterator[str]:
    """What is set as ``path`` of ``[store]``."""
    for keys, value in _leaves(_parsed(text)):
        if keys == ("store", "path"):
            yield value
    table = ""
    for line in text.splitlines():
        if setting := SETTING.match(line):
            key = f"{table}.{setting[2]}".lstrip(".")
            if key in ("store.path", ".store.path"):
                quoted = QUOTED.search(setting[4])
                words = setting[4].partition("#")[0].strip(" \t\"'")
                yield (quoted[1] or quoted[2] or "") if quoted else words
        elif found := TABLE.match(line):
            table = found[2]


def secrets_in(text: str, folder: Path) -> set[str]:
    """What may be a secret there: by its name, as the address of a web hook, as a part of an
    address; and what is in the files that it names, or that name where there is no such file.
    """
    pairs = [(keys[-1], [value]) for keys, value in _leaves(_parsed(text)) if keys]
    for name, value in PAIR.findall(text):
        quoted = [pair[0] or pair[1] for pair in QUOTED.findall(value)]
        pairs.append((name, quoted or WORDS.findall(value.partition("#")[0])))
    found: set[str] = set()
    for name, values in pairs:
        for value in values:
            found |= set(_of_address(name, value))
            if SECRET_NAME.search(name) and name != "tls_key":
                found.add(value)
            if FILES.search(name) and name not in PUBLIC_FILES and value:
                found.add(_content(folder, value))
    return {each for each in found if each}


def _of_address(name: str, value: str) -> Iterator[str]:
    with suppress(ValueError):  # no address
        parts = urlsplit(value)
        if parts.scheme in ("http", "https"):
            yield parts.username or ""
            yield value if name == "url" else ""
        yield parts.password or ""


def _content(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return file.read(SECRET_BYTES_MAX).decode(errors="replace")
    except (PermissionError, IsADirectoryError):
        return ""  # who may not read it cannot have it in the bundle
    except (OSError, ValueError):
        return name  # a secret, where the name of its file should be


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}


def _leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each text with the names of the tables that it is in."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _leaves(each, (*keys, name))
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, keys)
    elif isinstance(value, str):
        yield keys, value
