"""Writes labels into ``fleet.toml``, which is a person's: what they wrote stays as it is.

A box's labels are one line below ``[labels]``. The file is read again before it takes the place of
the older one: where a box's labels are written in another form, nothing is changed.
"""

import fcntl
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edge_store.errors import ConfigError
from edge_store.fleet.registry import FILE_NAME, Registry, parse_registry
from edge_store.ids import DeviceId
from edge_store.replica.scratch import fsync

__all__ = ["label_boxes"]

LOCK_NAME = ".fleet.toml.lock"
HEADER = re.compile(r"\s*\[labels\]\s*(#.*)?")


def label_boxes(
    folder: Path, boxes: Sequence[DeviceId], labels: Mapping[str, str | None]
) -> Registry:
    """Give each box these labels, and take away those that are None. Returns what the file says
    then, with paths as they are written.

    Raises:
        ConfigError: the file is wrong, or a label is; or the labels of a box are written otherwise.
    """
    path = folder / FILE_NAME
    with (folder / LOCK_NAME).open("w") as lock:  # closed, it is free again
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        wanted = parse_registry(text, path)
        for device_id in boxes:
            own = {**wanted.labels.get(device_id, {}), **labels}
            kept = {name: value for name, value in own.items() if value is not None}
            text = _written(text, device_id, kept)
            others = {name: each for name, each in wanted.labels.items() if name != device_id}
            new = {**others, device_id: kept} if kept else others
            try:
                wanted = msgspec.structs.replace(wanted, labels=new)
            except ValueError as exc:
                raise _refused(path, exc) from exc
        try:
            is_right = parse_registry(text, path) == wanted
        except ConfigError as exc:
            raise _refused(path, exc) from exc
        if not is_right:
            raise _refused(path, None)
        _replace(path, text)
    return wanted


def _refused(path: Path, exc: Exception | None) -> ConfigError:
    """``exc`` is what would be wrong with the file."""
    return ConfigError(
        f"{path} was left as it is: {exc or 'the labels of a box are written in another form'}",
        hint='change it by hand: below [labels], a box is a line: box-1 = {site = "berlin"}',
    )


def _written(text: str, device_id: DeviceId, labels: Mapping[str, str]) -> str:
    """The file with the line of one box."""
    pairs = ", ".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()
    )
    line = f"{device_id} = {{{pairs}}}" if labels else None
    lines = text.splitlines()
    start = next((n for n, each in enumerate(lines) if HEADER.fullmatch(each)), None)
    if start is None:
        if line is None:
            return text
        return f"{text.rstrip()}\n\n[labels]\n{line}\n".lstrip("\n")
    end = next(
        (n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines)
    )
    own = re.compile(rf'\s*"?{re.escape(device_id)}"?\s*=\s*\{{.*\}}\s*(#.*)?')
    place = next((n for n in range(start + 1, end) if own.fullmatch(lines[n])), None)
    if place is not None:
        lines[place : place + 1] = [line] if line else []
    elif line is not None:
        filled = [n for n in range(start, end) if lines[n].strip()]
        lines.insert(filled[-1] + 1, line)
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    writing = path.with_name(f".{path.name}.part")
    writing.write_text(text, encoding="utf-8")
    writing.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o640)
    fsync(writing)
    writing.replace(path)
    fsync(path.parent)
