"""API keys: made, listed, revoked.

A key is ``es-`` and 32 random bytes. Who makes it shows it once; what is passed on and stored is
its SHA-256, which nobody can turn back. A key is never changed: its rights are what they were when
it was made, until it is revoked. Rows stay, so that an id says for ever whose it was.
"""

import hashlib
import secrets
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.clock import now_ms, rfc3339
from edge_store.errors import InvalidRequest, NotFound
from edge_store.loggers import get_logger
from edge_store.recorder.caller import RecordLevel, Right
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = [
    "LOOK_AGAIN",
    "CreateKey",
    "Key",
    "KeyState",
    "Revived",
    "RevokeKey",
    "Revoked",
    "create_key",
    "digest_of",
    "keys_at_start",
    "new_key",
    "read_keys",
    "revived_keys",
    "revoke_key",
]

log = get_logger(__name__)

PREFIX = "es-"
KEY_BYTES = 32
KEY_ID_BYTES = 6  # 2**48 names: of 10,000 keys two collide once in five million boxes
NAME_CHARS_MAX = 100
LOOK_AGAIN = (
    "a key that was revoked after the state that was restored is live again, and one that was made "
    "after it is gone: `edge-store keys ls`, then revoke again, or make anew"
)
KEYS_MAX = 10_000  # all are in the daemon's memory, about 1 KiB each

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000)]
Time = Annotated[int, Meta(ge=0, lt=1 << 62)]  # UTC ms


class KeyState(StrEnum):
    """Whether it opens anything."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


class CreateKey(Record, frozen=True, kw_only=True):
    """A key to be: ``sha256`` is the key's own."""

    name: Name
    tenant: Name
    scopes: Annotated[tuple[Right, ...], Meta(min_length=1)] = (Right.GENERATE, Right.READ_OWN)
    requests_per_minute: Limit | None = None
    concurrent: Limit | None = None
    record_max: RecordLevel = RecordLevel.FULL
    expires_at: Time | None = None
    sha256: Annotated[bytes, Meta(min_length=32, max_length=32)]


class RevokeKey(Record, frozen=True, kw_only=True):
    """Which."""

    key_id: str


class Revoked(Record, frozen=True, kw_only=True):
    """What was done."""

    key_id: str
    revoked_at: int


class Key(Record, frozen=True, kw_only=True):
    """A row of ``api_keys``."""

    key_id: str
    name: str
    tenant: str
    scopes: tuple[Right, ...]
    requests_per_minute: int | None
    concurrent: int | None
    record_max: RecordLevel
    sha256: bytes
    created_at: int
    expires_at: int | None
    revoked_at: int | None

    def state(self, at_ms: int) -> KeyState:
        """What it is at that time."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= at_ms:
            return KeyState.EXPIRED
        return KeyState.LIVE


def new_key() -> str:
    """A key that nobody can guess, of letters, digits, ``-`` and ``_``."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is stored of a key. It is random, so one round of SHA-256 hides it as well as many."""
    return hashlib.sha256(key).digest()


def create_key(connection: Connection, params: CreateKey) -> Key:
    """Store a new key.

    Raises:
        InvalidRequest: a name would do something to a terminal, the key would be over before it
            begins, or there are ``KEYS_MAX`` already.
    """
    _require_printable(params.name, "name")
    _require_printable(params.tenant, "tenant")
    now = now_ms()
    if params.expires_at is not None and params.expires_at <= now:
        raise InvalidRequest("the key would have expired already", param="expires_at")
    if len(read_keys(connection)) >= KEYS_MAX:
        raise InvalidRequest(f"there are {KEYS_MAX} keys", hint="use one for many callers")
    fields = msgspec.structs.asdict(params)
    fields["scopes"] = tuple(sorted(set(params.scopes), key=list(Right).index))
    key_id = f"key_{secrets.token_hex(KEY_ID_BYTES)}"
    key = Key(**fields, key_id=key_id, created_at=now, revoked_at=None)
    row = msgspec.structs.asdict(key)
    row["scopes"] = msgspec.json.encode(key.scopes).decode()
    row["record_max"] = key.record_max.value
    del row["revoked_at"]
    connection.execute(sql("insert_key"), row)
    return key


def _require_printable(name: str, param: str) -> None:
    for place, character in enumerate(name, 1):
        if not character.isprintable():
            raise InvalidRequest(
                f"the {param} {name!r} has a character that cannot be printed, "
                f"U+{ord(character):04X}, at place {place}",
                hint="use letters, digits, punctuation and plain spaces",
                param=param,
            )


def revoke_key(connection: Connection, params: RevokeKey) -> Revoked:
    """Shut a key out for good. One that is revoked stays so since when it was.

    Raises ``NotFound`` when there is no such key.
    """
    wanted = {"key_id": params.key_id}
    connection.execute(sql("revoke_key"), {**wanted, "revoked_at": now_ms()})
    row = connection.execute(sql("select_key_revoked_at"), wanted).fetchone()
    if row is None:
        raise NotFound(f"there is no key {params.key_id!r}", hint="see `edge-store keys ls`")
    return Revoked(key_id=params.key_id, revoked_at=row[0])


class Revived(Record, frozen=True, kw_only=True):
    """What a restore has done to the keys: one that was revoked after the state that was restored
    is live again, one that was made after it is gone.
    """

    restored_at: int
    live: int  # of those that were made before
    is_served: bool  # a daemon has started on it since


def revived_keys(connection: Connection) -> Revived | None:
    """None where the file was never restored, or only before another restore."""
    with translated("the keys cannot be read"):
        row = connection.execute(sql("select_last_restore")).fetchone()
    if row is None:
        return None
    restored_at, is_new = row
    now = now_ms()
    live = sum(
        key.state(now) is KeyState.LIVE and key.created_at <= restored_at
        for key in read_keys(connection)
    )
    return Revived(restored_at=restored_at, live=live, is_served=not is_new)


def keys_at_start(connection: Connection) -> list[Key]:
    """As ``read_keys``. The first start after a restore says in the log what that did to them."""
    revived = revived_keys(connection)
    if revived is not None and not revived.is_served:
        at = rfc3339(revived.restored_at)
        log.warning("keys_restored", restored_at=at, live=revived.live, hint=LOOK_AGAIN)
    return read_keys(connection)


def read_keys(connection: Connection) -> list[Key]:
    """Every key that was ever made, the oldest first."""
    with translated("the keys cannot be read"):
        cursor = connection.execute(sql("select_keys"))
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return [
        msgspec.convert({**row, "scopes": msgspec.json.decode(row["scopes"])}, Key, strict=True)
        for row in rows
    ]
