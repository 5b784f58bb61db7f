"""Tries a place of replicas with a small object of its own, and says what an operator must know.

Each of the box's own requests is tried: write, list, read, read a part, write under a condition,
delete. Litestream then lists the place itself, because it is another client with its own ideas of
TLS, addresses and host keys. The object is removed at the end, however it ends.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from edge_store.clock import now_ms
from edge_store.config import ReplicaSection, StoreSection
from edge_store.errors import EdgeStoreError, LitestreamUnavailable, ReplicationError
from edge_store.ids import DeviceId
from edge_store.replica.litestream import Program, find_litestream, render_config, spawn
from edge_store.replica.location import Credentials, Location, Scheme, read_credentials
from edge_store.replica.objects import Objects
from edge_store.replica.signatures import unsigned
from edge_store.result import Check, CheckState

__all__ = ["check_location"]

CONTENT = b"edge-store looks whether this place can hold replicas. " * 16
PART_START, PART_LENGTH = 100, 50
SKEW_WARNING_MS = 30_000
SKEW_FAILURE_MS = 15 * 60_000  # S3 refuses signatures that are older
DATE_TIMEOUT_S = 5.0
LITESTREAM_TIMEOUT_S = 20.0
VERBS = {
    "write": "to write (s3:PutObject)",
    "list": "to list (s3:ListBucket)",
    "read": "to read (s3:GetObject)",
    "delete": "to delete (s3:DeleteObject)",
}

T = TypeVar("T")


def _ok(name: str, found: str) -> Check:
    return Check(name=name, state=CheckState.OK, found=found)


def _warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.WARNING, found=found, advice=advice)


def _failed(name: str, error: EdgeStoreError, location: Location) -> Check:
    advice = error.hint
    is_refusal = "refuses the keys" in str(error) or "no permission" in str(error)
    if is_refusal and name in VERBS and location.scheme is Scheme.S3:
        advice = f"{advice}; here it was not allowed {VERBS[name]}"
    return Check(name=name, state=CheckState.FAILED, found=str(error), advice=advice)


async def check_location(
    location: Location,
    environ: Mapping[str, str] = os.environ,
    *,
    reserve_bytes: int = StoreSection().disk_reserve_bytes,
) -> AsyncIterator[Check]:
    """Each finding as it is made. What cannot be told after a failure is left out. Of a folder's
    disk ``reserve_bytes`` should be free.
    """
    try:
        credentials = read_credentials(location, environ)
    except EdgeStoreError as exc:
        yield Check(name="keys", state=CheckState.FAILED, found=str(exc), advice=exc.hint)
        return
    yield _ok("keys", "none are needed" if location.scheme is Scheme.FILE else "found")
    proxy = _proxy(location)
    if proxy:
        yield _ok("proxy", f"requests go through {proxy}")
    probe = _Probe(location, credentials)
    absent = await asyncio.to_thread(_absent, location)
    if absent:
        yield _warning("folder", "it is not there, and is made for these checks only",
                       "the daemon makes it; is its disk mounted?")  # fmt: skip
    if location.scheme is Scheme.FILE:
        yield _room(Path(location.path), reserve_bytes)
    try:
        try:
            async for check in probe.run():
                yield check
        finally:
            await probe.clean()
        if probe.is_writable:
            yield await _litestream(location, credentials)
    finally:
        for folder in absent:
            with suppress(OSError):  # it was never made, or is somebody's by now
                await asyncio.to_thread(folder.rmdir)


def _absent(location: Location) -> list[Path]:
    """The folders that trying to write there makes, deepest first."""
    if location.scheme is not Scheme.FILE:
        return []
    path = Path(location.path)
    return [each for each in (path, *path.parents) if not each.exists()]


def _room(folder: Path, reserve_bytes: int) -> Check:
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    usage = shutil.disk_usage(there)
    found = (
        f"{usage.free} of {usage.total} bytes are free; store.disk_reserve_bytes = {reserve_bytes}"
    )
    if usage.free >= reserve_bytes:
        return _ok("room", found)
    return _warning("room", found, "free space on that disk, or use another one: on a full one "
                    "nothing is replicated, and what is committed waits on the box's")  # fmt: skip


class _Probe:
    """One object and what is tried with it."""

    def __init__(self, location: Location, credentials: Credentials | None) -> None:
        self._location = location
        self._objects = Objects(location, credentials)
        self._folder = "check"
        self._key = f"{self._folder}/{secrets.token_hex(8)}"
        self.is_writable = False

    async def run(self) -> AsyncIterator[Check]:
        began = now_ms()
        write = await self._try("write", self._objects.create(self._key, CONTENT))
        ended = now_ms()
        if isinstance(write, Check):
            yield write
            skew = await _date_skew(self._location)
            if skew is not None:
                yield _judge_clock(skew)
            listed = await self._try("list", self._objects.list(self._folder))
            if not isinstance(listed, Check):
                yield _ok("list", "it can be listed, but not written")
            return
        self.is_writable = True
        yield _ok("write", f"{len(CONTENT)} bytes in {ended - began} ms")
        yield await self._list()
        found = await self._try("read", self._objects.get(self._key))
        if isinstance(found, Check):
            yield found
        elif found is None or found.content != CONTENT:
            yield _said("read", "what was written is not what is read", "is a cache in between?")
        else:
            yield _ok("read", "the same bytes")
            yield _judge_clock(found.written_at - (began + ended) // 2)
        yield await self._part()
        yield await self._conditions()
        yield await self._delete()

    async def _try(self, name: str, asked: Awaitable[T]) -> T | Check:
        try:
            return await asked
        except ReplicationError as exc:
            return _failed(name, exc, self._location)

    async def _list(self) -> Check:
        entries = await self._try("list", self._objects.list(self._folder))
        if isinstance(entries, Check):
            return entries
        if self._key.rpartition("/")[2] not in entries:
            return _said("list", "what was written is not listed", "is it another store's key?")
        return _ok("list", "what was written is listed")

    async def _part(self) -> Check:
        wanted = CONTENT[PART_START : PART_START + PART_LENGTH]
        try:
            part = await self._objects.get_range(self._key, PART_START, PART_LENGTH)
        except ReplicationError:
            part = b""
        if part == wanted:
            return _ok("range", "a part of an object can be read")
        return _warning("range", "a part of an object cannot be read: the store ignores Range",
                        "restores work, but one that was cut off begins anew")  # fmt: skip

    async def _conditions(self) -> Check:
        """Two boxes on one path destroy a replica; conditions stop the second in the same moment.
        Without them a box looks again before it writes, and then again and again.
        """
        objects = self._objects
        try:
            creates = not await objects.create(self._key, CONTENT)
            old = await objects.get(self._key)
            await objects.put(self._key, CONTENT + b"2")
            replaces = old is not None and not await objects.replace(self._key, CONTENT, old)
        except ReplicationError as exc:
            return _failed("conditions", exc, self._location)
        if creates and replaces:
            return _ok("conditions", "kept: of two boxes that claim one path, one is refused")
        if creates:
            return _ok("conditions", "only `create if absent` is kept: a box that takes over a "
                       "path looks twice before it writes")  # fmt: skip
        if replaces:
            return _ok("conditions", "only `replace if unchanged` is kept: a box that claims a new "
                       "path looks twice before it writes")  # fmt: skip
        return _warning("conditions", "not kept: a box that claims a path looks twice before it "
                        "writes; another whose claim arrives later is noticed within 30 s",
                        "see that no two boxes have one device.id, or use a store that keeps "
                        "If-None-Match and If-Match")  # fmt: skip

    async def _delete(self) -> Check:
        deleted = await self._try("delete", self._objects.delete(self._key))
        if isinstance(deleted, Check):
            return deleted
        found = await self._try("delete", self._objects.get(self._key))
        if isinstance(found, Check):
            return found
        if found is not None:
            return _warning("delete", "what was deleted is still there",
                            "a lock, or kept versions: old snapshots may pile up")  # fmt: skip
        return _ok("delete", "gone")

    async def clean(self) -> None:
        """Leave nothing behind, as far as that is possible."""
        if self.is_writable:
            with suppress(ReplicationError):
                await self._objects.delete(self._key)


def _said(name: str, found: str, advice: str) -> Check:
    return Check(name=name, state=CheckState.FAILED, found=found, advice=advice)


def _judge_clock(skew_ms: int) -> Check:
    shown = f"the store's is {abs(skew_ms) / 1000:.0f} s {'ahead' if skew_ms > 0 else 'behind'}"
    advice = "set this machine's clock: `timedatectl`; stores refuse what is 15 minutes off"
    if abs(skew_ms) >= SKEW_FAILURE_MS:
        return _said("clock", shown, advice)
    if abs(skew_ms) >= SKEW_WARNING_MS:
        return _warning("clock", shown, advice)
    return _ok("clock", "the store's agrees, within seconds")


async def _date_skew(location: Location) -> int | None:
    """The store's clock less ours, from the Date of any answer, which needs no keys."""
    url = _address(location)
    if url is None:
        return None
    try:
        async with httpx.AsyncClient(timeout=DATE_TIMEOUT_S) as client:
            answer = await client.head(url)
        return round(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000) - now_ms()
    except (httpx.HTTPError, KeyError, ValueError):
        return None


def _address(location: Location) -> str | None:
    """Where requests go; None where they are no HTTP."""
    match location.scheme:
        case Scheme.FILE | Scheme.SFTP:
            return None
        case Scheme.S3:
            return location.endpoint or f"https://s3.{location.region}.amazonaws.com"
        case Scheme.GCS:
            return location.endpoint or "https://storage.googleapis.com"
        case Scheme.AZURE:
            return location.endpoint or f"https://{location.account}.blob.core.windows.net"


def _proxy(location: Location) -> str | None:
    """The proxy that the environment names for this place, without what may be its password."""
    address = urlsplit(_address(location) or "")
    if not address.hostname or proxy_bypass(address.hostname):
        return None
    found = getproxies().get(address.scheme)
    return urlsplit(found).hostname if found else None


async def _litestream(location: Location, credentials: Credentials | None) -> Check:
    """Let Litestream list a box that is not there."""
    try:
        program = await asyncio.to_thread(find_litestream)
        with tempfile.TemporaryDirectory(prefix="edge-store-check-") as name:
            said = await _ltx(location, credentials, program, Path(name))
    except LitestreamUnavailable as exc:
        return _failed("litestream", exc, location)
    except TimeoutError:
        said = f"no answer within {LITESTREAM_TIMEOUT_S:g} s"
    if not said:
        return _ok("litestream", f"{program.version} reaches it too")
    advice = "compare the address and the keys; its own log says more"
    if location.scheme is Scheme.SFTP and "host key" in said:
        advice = (
            "of a host's keys Litestream asks for the ecdsa one: pin that (`ssh-keyscan -t ecdsa`)"
        )
    return _said("litestream", f"Litestream does not reach it: {said}", advice)


async def _ltx(
    location: Location, credentials: Credentials | None, program: Program, folder: Path
) -> str:
    """What Litestream complains of; empty when it lists the place."""
    database, config = folder / "check.db", folder / "litestream.yml"
    content = render_config(
        database=database,
        meta_path=folder / "litestream",
        socket=None,
        replica=location.litestream_replica(DeviceId("check")),
        section=ReplicaSection(),
    )
    config.write_bytes(content)
    process = await spawn(
        program,
        *("ltx", "-no-expand-env", "-config", str(config), str(database)),
        credentials=credentials,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LITESTREAM_TIMEOUT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    said = unsigned(output).decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    return "" if process.returncode == 0 or not lines else lines[-1].strip()[:300]
