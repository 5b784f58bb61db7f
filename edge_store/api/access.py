"""Who may come in: keys, their rights, and how much each may ask at once and in a minute.

The keys are in memory, all of them, read at the start and again with each change, so that nobody
waits for the database. Looked up is the SHA-256 of what was given: how long that takes tells
nothing of any key. Once a box has had a key nobody comes in without one, even if all of them are
revoked or have expired. Runs on the event loop; what a key has used of its limits is lost with the
process.
"""

import math
import time
from collections.abc import Iterable
from hmac import compare_digest
from ipaddress import ip_address
from types import TracebackType
from typing import NamedTuple

from edge_store.api.routes import OPERATING, WATCHING, rights_for
from edge_store.clock import now_ms
from edge_store.engine import Scope
from edge_store.errors import (
    ConcurrencyLimited,
    Forbidden,
    KeyExpired,
    KeyRevoked,
    RateLimited,
    Unauthorized,
)
from edge_store.keys import Key, digest_of
from edge_store.recorder.caller import Caller, Right, caller_of, given_key

__all__ = ["Access", "Visit", "is_loopback"]

Headers = list[tuple[bytes, bytes]]
MINUTE_S = 60.0
ADMIN_KEY_ID = "admin-key"  # of the credential


class Use:
    """What a key has used of its limits: a bucket of requests, which a minute fills, and a count of
    those in flight.
    """

    def __init__(self, per_minute: int | None, concurrent: int | None) -> None:
        self._per_minute = per_minute
        self._concurrent = concurrent
        self._left = float(per_minute or 0)
        self._at = time.monotonic()
        self._in_flight = 0

    def __enter__(self) -> None:
        """Raises ``ConcurrencyLimited`` or ``RateLimited``; then nothing is used."""
        if self._concurrent is not None and self._in_flight >= self._concurrent:
            raise ConcurrencyLimited(
                f"this key has {self._in_flight} requests in flight, the most it may",
                hint="wait for one of them to end",
            )
        if self._per_minute is not None:
            now = time.monotonic()
            refilled = (now - self._at) * self._per_minute / MINUTE_S
            self._left, self._at = min(self._per_minute, self._left + refilled), now
            if self._left < 1:
                raise RateLimited(
                    f"this key has made the {self._per_minute} requests of its minute",
                    hint="send fewer, or have a key made with more",
                    retry_after_s=math.ceil(self._until(1)),
                )
            self._left -= 1
        self._in_flight += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._in_flight -= 1

    def _until(self, tokens: float) -> float:
        """Seconds until so many requests are left."""
        assert self._per_minute is not None
        return max(0.0, tokens - self._left) * MINUTE_S / self._per_minute

    @property
    def headers(self) -> Headers:
        """OpenAI's, of the rate; none where there is no bound."""
        if self._per_minute is None:
            return []
        reset = f"{self._until(self._per_minute):.3f}s"
        return [
            (b"x-ratelimit-limit-requests", str(self._per_minute).encode()),
            (b"x-ratelimit-remaining-requests", str(int(self._left)).encode()),
            (b"x-ratelimit-reset-requests", reset.encode()),
        ]


UNBOUNDED = Use(None, None)


class Visit(NamedTuple):
    """A caller that may come in. ``use`` is to be entered while it is there; ``has_key``: what it
    gave is a key of ours, which is nobody else's business.
    """

    caller: Caller
    use: Use
    has_key: bool


class Entry(NamedTuple):
    """A key in the table."""

    sha256: bytes
    caller: Caller
    use: Use
    expires_at: float  # UTC ms
    is_revoked: bool


class Access:
    """The table of keys. ``admin_key`` is the credential's: it may do everything."""

    def __init__(self, keys: Iterable[Key] = (), admin_key: str = "") -> None:
        self._admin = _admin_entry(admin_key) if admin_key else None
        self._entries: dict[bytes, Entry] = {}
        self._by_id: dict[str | None, Entry] = {}
        self._has_keys = False
        self.renew(keys)

    def renew(self, keys: Iterable[Key]) -> None:
        """Hold these from now on. Keys that were held before go on with what they have used."""
        before = self._entries
        entries = [_entry(key, before.get(key.sha256)) for key in keys]
        self._has_keys = bool(entries)
        if self._admin is not None:
            entries.append(self._admin)
        self._entries = {entry.sha256: entry for entry in entries}
        self._by_id = {entry.caller.key_id: entry for entry in entries}

    def visit(self, scope: Scope) -> Visit:
        """Who asks, if it may.

        Raises:
            Unauthorized: there is no such key, or it is over.
            Forbidden: the key lacks the right.
        """
        method, path = scope["method"], scope["path"]
        if path in WATCHING and (path == "/livez" or not self._has_keys or _is_local(scope)):
            return Visit(Caller(), UNBOUNDED, has_key=False)
        given = given_key(scope)
        entry = self._entry_of(given) if given else None
        if entry is not None:
            if (over := _over(entry)) is not None:
                raise over
            found = Visit(entry.caller, entry.use, has_key=True)
        elif not self._has_keys:
            found = Visit(caller_of(scope), UNBOUNDED, has_key=False)
        elif given:
            raise Unauthorized(INVALID, hint=ASK)
        else:
            raise Unauthorized("an API key is needed: send `Authorization: Bearer es-…`", hint=ASK)
        has = found.caller.rights
        lacking = next((some for some in rights_for(method, path) if some.isdisjoint(has)), None)
        # on a box without keys the operators' routes are as if they were not there
        if lacking is not None and (self._has_keys or path not in OPERATING):
            rights = " or ".join(right.value for right in Right if right in lacking)
            raise Forbidden(
                f"{method} {path} needs a key with the right {rights}",
                hint=f"`edge-store keys create … --scope {rights.split()[0]}` makes one",
            )
        return found

    def shut_out(self, caller: Caller) -> Unauthorized | None:
        """Why who came in earlier may not go on: its key is over, or is none of this file's. Who
        came without one may stay as long as nobody needs one.
        """
        if caller.key_id is None:
            return Unauthorized("an API key is needed", hint=ASK) if self._has_keys else None
        entry = self._by_id.get(caller.key_id)
        return Unauthorized(INVALID, hint=ASK) if entry is None else _over(entry)

    def _entry_of(self, given: bytes) -> Entry | None:
        digest = digest_of(given)
        entry = self._entries.get(digest)
        return entry if entry is not None and compare_digest(entry.sha256, digest) else None


INVALID = "the API key is not valid here"
ASK = "`edge-store keys create` makes one, `edge-store keys ls` lists them"


def _over(entry: Entry) -> Unauthorized | None:
    """Only the code tells a revoked key from one that never was."""
    if entry.is_revoked:
        return KeyRevoked(INVALID, hint=ASK)
    return KeyExpired(INVALID, hint=ASK) if entry.expires_at <= now_ms() else None


def _entry(key: Key, before: Entry | None) -> Entry:
    return Entry(
        sha256=key.sha256,
        caller=Caller(
            tenant=key.tenant,
            rights=frozenset(key.scopes),
            key_id=key.key_id,
            record_max=key.record_max,
        ),
        use=before.use if before else Use(key.requests_per_minute, key.concurrent),
        expires_at=math.inf if key.expires_at is None else key.expires_at,
        is_revoked=key.revoked_at is not None,
    )


def _admin_entry(admin_key: str) -> Entry:
    given = {"headers": [(b"authorization", b"Bearer " + admin_key.encode())]}
    return Entry(
        sha256=digest_of(admin_key.encode()),
        caller=Caller(tenant=caller_of(given).tenant, rights=frozenset(Right), key_id=ADMIN_KEY_ID),
        use=UNBOUNDED,
        expires_at=math.inf,
        is_revoked=False,
    )


def is_loopback(address: str) -> bool:
    """Whether only this machine can have it."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _is_local(scope: Scope) -> bool:
    """Whether the caller is on this machine: it has a loopback address, or the server's own."""
    client, server = scope.get("client"), scope.get("server")
    if not client:
        return False
    return is_loopback(client[0]) or (server is not None and client[0] == server[0])
