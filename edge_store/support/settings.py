"""What a bundle tells of the settings: of a file that cannot be read its form, and of what an
operator has written in his own words its size alone.

Of a file that is no TOML nobody knows where a value ends. So nothing of a value is kept but what
cannot be a secret: numbers and booleans of settings that there are, quotes, brackets, commas.
"""

import re
from functools import cache
from typing import Any

from edge_store.config import ShownSetting
from edge_store.config.render import documented_settings, documented_tables
from edge_store.config.sinks import SECRET_NAME
from edge_store.schema import FILES, statements

__all__ = ["PLAIN", "SETTING", "TABLE", "WORDS", "form_of", "in_sizes", "own_texts_in_sizes"]

SETTING = re.compile(r"^(\s*)([\w.\"'-]+)(\s*=\s*)(.*)$", re.ASCII)
TABLE = re.compile(r"^(\s*\[{0,2}\s*)([\w.-]+)(\s*\]{0,2}\s*)(?:#.*)?$", re.ASCII)
PLAIN = re.compile(r"[+-]?\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false", re.ASCII)
REMARK = re.compile(r"\s*(?:#.*)?")
WORDS = re.compile(r"[^\s\"'\[\]{},=\\]+")
FIELDS = re.compile(r"(\{\w+\})")
OWN_TEXT = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/", re.DOTALL)
OWN_TEXTS = ("queries", "privacy.rules")  # SQL and regular expressions, by name


def form_of(text: str) -> str:
    """A file that cannot be read as settings, line by line: tables and the names of settings that
    there are, with the form of what is set.
    """
    known = {key.rpartition(".")[2] for key, _, _ in documented_settings()}
    known |= {name for name, _, _ in documented_tables()}
    tables = {key.rpartition(".")[0] for key, _, _ in documented_settings()}
    tables |= {"sinks", *OWN_TEXTS, "engine.sglang"}
    lines, remarks = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        if not REMARK.fullmatch(line):
            lines.append(f"{number:4}  {_form(line, known, tables)}")
        remarks += line.lstrip().startswith("#")
    return "\n".join([*lines, f"({remarks} lines of remarks were left out)", ""])


def _form(line: str, known: set[str], tables: set[str]) -> str:
    if found := SETTING.match(line):
        before, name, sets, value = found.groups()
        shown = name if name in known or name in tables else WORDS.sub(_size, name)
        whole = value.partition("#")[0].strip()
        is_plain = name in known and not SECRET_NAME.search(name) and PLAIN.fullmatch(whole)
        return f"{before}{shown}{sets}{whole if is_plain else WORDS.sub(_size, value)}"
    if (found := TABLE.match(line)) and found[2] in tables:
        return f"{found[1]}{found[2]}{found[3]}".rstrip()
    return WORDS.sub(_size, line)


def _size(found: "re.Match[str] | str") -> str:
    """What is left of a text."""
    count = len(found if isinstance(found, str) else found[0])
    return f"({count})"


def in_sizes(setting: ShownSetting) -> ShownSetting:
    """With what an operator has written himself as its size: SQL, regular expressions, the model
    and the topic of a sink. Their names stay.
    """
    if setting.key in OWN_TEXTS:
        sizes = {name: _characters(text) for name, text in setting.value.items()}
        return setting._replace(value=sizes)
    if setting.key == "sinks":
        return setting._replace(value=[_sink(sink) for sink in setting.value])
    return setting


def own_texts_in_sizes(statement: str | None) -> str | None:
    """SQL of a schema, with texts and remarks that ours has not, but paths of JSON, as sizes."""

    def shown(found: re.Match[str]) -> str:
        text = found[0]
        return text if text.startswith("'$") or text in _our_schema() else f"'{_characters(text)}'"

    return OWN_TEXT.sub(shown, statement) if statement else statement


@cache
def _our_schema() -> str:
    return "\n".join(each for name in FILES for each in statements(name))


def _sink(sink: dict[str, Any]) -> dict[str, Any]:
    defaults = {name: default for name, _, default in documented_tables()}
    shown = dict(sink)
    if shown["model"]:
        shown["model"] = _characters(shown["model"])
    if shown["topic"] != defaults["topic"]:
        parts = FIELDS.split(shown["topic"])
        shown["topic"] = "".join(
            part if FIELDS.fullmatch(part) else _characters(part) for part in parts if part
        )
    return shown


def _characters(text: str) -> str:
    return f"({len(text)} character{'' if len(text) == 1 else 's'})"
