"""Our own small objects, ranges and listings over SFTP. Litestream speaks SFTP itself.

The host must show the key that is pinned; without one nothing is sent. A connection is made for
each call and closed after it: heads and owners are a few a minute, and a connection that is not
kept cannot be half dead. asyncssh reads no configuration of the user's and asks no agent.

Over SFTP an object appears whole, by a rename. A plain rename refuses to take the place of another
file, which makes ``create`` safe against a second box; there is no way to replace a file only if it
is still the same.
"""

import asyncio
import secrets
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import PurePosixPath
from typing import Any, TypeVar

from obstore.exceptions import GenericError

from edge_store.errors import ConfigError, ReplicaNotFound, ReplicationError, install
from edge_store.replica.address import host_key_type
from edge_store.replica.bucket import Entry, Found, Precondition
from edge_store.replica.location import Location

try:
    import asyncssh
except ImportError as exc:
    raise ConfigError(
        "a replica over SFTP needs the package asyncssh, which is not installed",
        hint=install("sftp"),
    ) from exc

__all__ = ["SftpBucket"]

CONNECT_TIMEOUT_S, LOGIN_TIMEOUT_S = 3.0, 10.0
CALL_TIMEOUT_S = 60.0  # a listing's; the caller's own deadline is shorter
DEPTH_MAX = 6  # of folders below a prefix; a replica has three
LOGINS = threading.BoundedSemaphore(6)  # at a time: with ten, sshd drops some (its MaxStartups)

T = TypeVar("T")
Do = Callable[["asyncssh.SFTPClient"], Awaitable[T]]


class SftpBucket:
    """A folder on an SFTP server. Each call raises ``ReplicationError`` in an operator's words."""

    def __init__(self, location: Location, *, make_folder: bool) -> None:
        self._location = location
        self._root = PurePosixPath(location.path)
        self._makes_folder = make_folder

    def get(self, key: str) -> Found | None:
        async def do(client: asyncssh.SFTPClient) -> Found | None:
            try:
                async with client.open(self._path(key), "rb") as file:
                    attributes = await file.stat()
                    content = await file.read()
            except asyncssh.SFTPNoSuchFile:
                return None
            written_at = (attributes.mtime or 0) * 1000
            return Found(content=_bytes(content), written_at=written_at, version={})

        return self._run(do)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        async def do(client: asyncssh.SFTPClient) -> bytes:
            async with client.open(self._path(key), "rb") as file:
                return _bytes(await file.read(length, start))

        return self._run(do)

    def stream(
        self, key: str, start: int, chunk_bytes: int, version: str | None
    ) -> Iterator[bytes]:
        """Over one connection, which is closed with the iterator. A connection that breaks raises
        obstore's error, as of the other stores: the caller goes on from what has arrived.
        """
        assert version is None  # files have none here
        with asyncio.Runner() as runner, ExitStack() as closing:
            stack = AsyncExitStack()
            closing.callback(lambda: runner.run(stack.aclose()))
            try:
                client = runner.run(self._enter(stack))
                file = runner.run(stack.enter_async_context(client.open(self._path(key), "rb")))
                runner.run(file.seek(start))
                while chunk := _bytes(runner.run(file.read(chunk_bytes))):
                    yield chunk
            except asyncssh.SFTPNoSuchFile as exc:
                raise FileNotFoundError(key) from exc
            except (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, OSError) as exc:
                raise GenericError(f"the connection broke: {exc}") from exc
            except (asyncssh.Error, ValueError) as exc:
                raise self._explained(exc) from exc

    def put(self, key: str, content: bytes, precondition: Precondition) -> bool:
        path = PurePosixPath(self._path(key))
        new = str(path.with_name(f".{path.name}.{secrets.token_hex(8)}"))

        async def do(client: asyncssh.SFTPClient) -> bool:
            await client.makedirs(str(path.parent), exist_ok=True)
            try:
                async with client.open(new, "xb") as file:
                    await file.write(content)
                if precondition != "create":
                    await _replace(client, new, str(path))
                    return True
                try:
                    await client.rename(new, str(path))
                except asyncssh.SFTPError:
                    if not await client.exists(str(path)):
                        raise
                    await client.remove(new)
                    return False
            except asyncssh.SFTPError:
                with suppress(asyncssh.SFTPError):
                    await client.remove(new)
                raise
            return True

        return self._run(do)

    def delete(self, key: str) -> None:
        async def do(client: asyncssh.SFTPClient) -> None:
            with suppress(asyncssh.SFTPNoSuchFile):
                await client.remove(self._path(key))

        self._run(do)

    def entries(self, prefix: str | None) -> Iterator[Entry]:
        async def do(client: asyncssh.SFTPClient) -> list[Entry]:
            found: list[Entry] = []
            folders = [(prefix or "", 0)]
            while folders:
                folder, depth = folders.pop()
                for name, attributes in await self._scan(client, folder, is_first=depth == 0):
                    key = f"{folder}/{name}" if folder else name
                    if stat.S_ISDIR(attributes.permissions or 0):
                        if depth < DEPTH_MAX:
                            folders.append((key, depth + 1))
                        continue
                    written_at = (attributes.mtime or 0) * 1000
                    found.append(
                        Entry(
                            key=key,
                            size=attributes.size or 0,
                            written_at=written_at,
                            version=None,
                        )
                    )
            return found

        return iter(self._run(do))

    def folders(
        self, prefixes: Sequence[str | None], timeout_s: float
    ) -> list[list[str] | Exception]:
        """Over one connection: a login each would take a fleet's listing minutes."""
        ends_at = time.monotonic() + timeout_s

        async def below(client: asyncssh.SFTPClient, prefix: str) -> list[str] | Exception:
            try:
                async with asyncio.timeout(ends_at - time.monotonic()):
                    found = await self._scan(client, prefix, is_first=True)
            except (asyncssh.Error, OSError, TimeoutError) as exc:
                return self._explained(exc)
            return [
                f"{prefix}/{name}" if prefix else name
                for name, attributes in found
                if stat.S_ISDIR(attributes.permissions or 0)
            ]

        async def do(client: asyncssh.SFTPClient) -> list[list[str] | Exception]:
            return [await below(client, prefix or "") for prefix in prefixes]

        return self._run(do, timeout_s + LOGIN_TIMEOUT_S)

    async def _scan(
        self, client: "asyncssh.SFTPClient", folder: str, *, is_first: bool
    ) -> list[tuple[str, Any]]:
        """What is in it; nothing when it is not there. Names that begin with a dot are being
        written.
        """
        try:
            return [
                (str(entry.filename), entry.attrs)
                async for entry in client.scandir(self._path(folder))
                if not str(entry.filename).startswith(".")
            ]
        except asyncssh.SFTPNoSuchFile:
            if is_first and not self._makes_folder and not await client.exists(str(self._root)):
                raise ReplicaNotFound(
                    f"{self._location}: there is no such folder", hint="check the address"
                ) from None
            return []

    def _path(self, key: str) -> str:
        return str(self._root / key)

    def _run(self, do: Do[T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        """One connection, one call. On the caller's thread, in an event loop of its own."""
        try:
            return asyncio.run(self._connected(do, timeout_s))
        except (asyncssh.Error, OSError, TimeoutError, ValueError) as exc:
            raise self._explained(exc) from exc

    async def _connected(self, do: Do[T], timeout_s: float) -> T:
        async with asyncio.timeout(timeout_s), AsyncExitStack() as stack:
            return await do(await self._enter(stack))

    async def _enter(self, stack: AsyncExitStack) -> "asyncssh.SFTPClient":
        """Connect. Leaving the stack closes the connection."""
        at = self._location
        pinned = asyncssh.import_public_key(f"{host_key_type(at.host_key)} {at.host_key}")
        logging_in = asyncssh.connect(
            at.host,
            at.port,
            username=at.user,
            client_keys=[at.key_file],
            known_hosts=([pinned], [], []),
            config=None,
            agent_path=None,
            preferred_auth="publickey",
            connect_timeout=CONNECT_TIMEOUT_S,
            login_timeout=LOGIN_TIMEOUT_S,
        )
        if not LOGINS.acquire(timeout=CALL_TIMEOUT_S):  # this thread has nothing else to do
            raise TimeoutError
        try:
            connection = await stack.enter_async_context(logging_in)
        finally:
            LOGINS.release()
        return await stack.enter_async_context(connection.start_sftp_client())

    def _explained(self, exc: Exception) -> ReplicationError:
        for kind, what, hint in EXPLANATIONS:
            if isinstance(exc, kind):
                return ReplicationError(f"{self._location}: {what}", hint=hint)
        if isinstance(exc, asyncssh.SFTPError | asyncssh.Error):
            return ReplicationError(
                f"{self._location} refuses: {exc.reason or type(exc).__name__}",
                hint="look at the log of its sshd, at its disk and its quota",
            )
        from edge_store.replica.explain import explained  # noqa: PLC0415

        return explained(exc, self._location)


def _bytes(content: bytes | str) -> bytes:
    assert isinstance(content, bytes)  # it was opened as bytes
    return content


async def _replace(client: "asyncssh.SFTPClient", new: str, path: str) -> None:
    """OpenSSH's rename replaces; elsewhere the old one goes first, and is missing for a moment."""
    try:
        await client.posix_rename(new, path)
    except asyncssh.SFTPOpUnsupported:
        with suppress(asyncssh.SFTPNoSuchFile):
            await client.remove(path)
        await client.rename(new, path)


EXPLANATIONS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        asyncssh.HostKeyNotVerifiable,
        "the host shows another key than the pinned one: it is another machine, or was set up anew",
        "compare the host's /etc/ssh/ssh_host_*_key.pub with replica.sftp_host_key",
    ),
    (
        asyncssh.KeyExchangeFailed,
        "the host has no key of the pinned kind, or no cipher in common",
        "pin a key that it has: `ssh-keyscan HOST`",
    ),
    (
        asyncssh.PermissionDenied,
        "the host refuses this user's key",
        "is its public part in ~/.ssh/authorized_keys of that user over there?",
    ),
    (
        asyncssh.KeyImportError,
        "the private key cannot be read: it has a passphrase, or is not a key",
        "a daemon cannot type a passphrase: make a key without one, for this alone",
    ),
    (
        asyncssh.SFTPPermissionDenied,
        "that user may not write or read there",
        "check the folder's owner and mode over there",
    ),
    (
        asyncssh.ConnectionLost,
        "the connection was closed",
        "is it an SSH server? look at the log of its sshd",
    ),
)
