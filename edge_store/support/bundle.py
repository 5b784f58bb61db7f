"""Puts the parts together, without what nobody else is to know, into one tar.gz."""

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from edge_store.clock import now_ms, utc_text
from edge_store.errors import EdgeStoreError, StoreError
from edge_store.identity import read_device_id
from edge_store.sql import sql
from edge_store.sqlite import open_reader, translated
from edge_store.status import known_device_id
from edge_store.support.broken import names_in, secrets_in
from edge_store.support.hiding import Hiding, known_secrets
from edge_store.support.parts import PARTS, Subject

__all__ = ["Part", "write_bundle"]

MODE = 0o600


class Part(NamedTuple):
    """One file of a bundle. ``failure``: why it is not what it should be."""

    name: str
    bytes: int
    meaning: str
    failure: str


def write_bundle(subject: Subject, to: Path | None) -> tuple[Path, list[Part]]:
    """Write it to ``to``, else under a name of its own into the current folder.

    Raises:
        FileExistsError: ``to`` is there already.
        StoreError: there is no room for it; nothing of it is left.
    """
    hiding = _hiding(subject)
    device_id = known_device_id(subject.loaded.config) or "box"
    stem = hiding(f"edge-store-support-{device_id}") + utc_text(now_ms(), "-%Y%m%dT%H%M%SZ")
    to = to or Path(f"{stem}.tar.gz")
    parts: list[Part] = []
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w:gz") as tar:
            for name, text, part in _collected(subject, hiding):
                _add(tar, f"{stem}/{name}", text)
                parts.append(part)
        whole.seek(0)
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(whole.read())
        except OSError as exc:
            to.unlink()
            raise StoreError(
                f"{to} cannot be written: {exc.strerror}", hint="give another place: -o FILE"
            ) from exc
    return to, parts


def _collected(subject: Subject, hiding: Hiding) -> Iterator[tuple[str, str, Part]]:
    for name, collect in PARTS.items():
        failure = ""
        try:
            text = collect(subject)
        except (EdgeStoreError, OSError, subprocess.SubprocessError, ValueError) as exc:
            failure = hiding(f"{type(exc).__name__}: {exc}")
            text = f"not collected: {failure}\n"
        if not text:
            continue  # there is nothing to say of it
        text = hiding(text)
        meaning = (collect.__doc__ or "").strip().splitlines()[0].replace("`", "")
        yield name, text, Part(name, len(text.encode(errors="replace")), meaning, failure)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="replace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), MODE, now_ms() // 1000
    tar.addfile(entry, io.BytesIO(data))


def _hiding(subject: Subject) -> Hiding:
    config = subject.loaded.config
    device_id = known_device_id(config) or ""
    key = f"edge-store support {device_id} {config.store.path}".encode()
    names = dict(_names(subject)) if subject.redact else {}
    path = subject.loaded.path
    more = secrets_in(subject.broken, path.parent) if path else ()
    return Hiding(known_secrets(config, more=more), names, key)


def _names(subject: Subject) -> Iterator[tuple[str, str]]:
    """What says whose box it is, and whose requests, each with what it is."""
    config = subject.loaded.config
    path = subject.loaded.path
    folders = [Path(config.store.path).parent, Path.cwd(), Path(sys.prefix)]
    with suppress(RuntimeError):  # who has no HOME, and no entry in passwd, has none to hide
        folders.append(Path.home())
    folders += [path.parent] if path else []
    yield from ((str(folder), "path") for folder in folders if folder != Path("/"))
    yield from ((str(folder.resolve()), "path") for folder in folders if folder != Path("/"))
    for name in (socket.gethostname(), socket.getfqdn(), os.environ.get("HOSTNAME", "")):
        yield name, "host"
    of_broken_file = names_in(subject.broken)
    yield from ((name, "setting") for name in of_broken_file if "://" not in name)
    for url in (
        config.replica.url,
        config.retention.archive,
        config.engine.upstream.base_url,
        *(s.url for s in config.sinks),
        *of_broken_file,
    ):
        with suppress(ValueError):
            found = urlsplit(url)
            yield found.hostname or "", "host"
            yield found.path.strip("/"), "path"
            yield found.username or "", "user"
    yield config.server.host if config.server.host[:1].isalpha() else "", "host"
    yield config.device.id, "device"
    yield known_device_id(config) or "", "device"
    for sink in config.sinks:
        yield sink.tenant, "tenant"
    yield str(config.engine.sglang.get("model_path", "")), "path"
    with (
        suppress(EdgeStoreError),
        closing(open_reader(Path(config.store.path))) as connection,
        translated("names cannot be read"),
    ):
        yield read_device_id(connection) or "", "device"
        for tenant, name in connection.execute(sql("select_key_names")):
            yield tenant or "", "tenant"
            yield name or "", "key"
