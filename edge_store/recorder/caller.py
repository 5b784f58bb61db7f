"""Whose request it is, what they may, and where it comes from. The gate says so once, in the ASGI
scope; every room behind it asks here. On a box that has no keys, a tenant is whoever shares one.
"""

import hashlib
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

from edge_store.engine import Scope
from edge_store.errors import EdgeStoreError, Forbidden, InvalidRequest
from edge_store.ids import ResultId
from edge_store.result import Record

__all__ = [
    "EVERYBODY",
    "NO_ORIGIN",
    "Caller",
    "Origin",
    "RecordLevel",
    "Right",
    "ShutOut",
    "caller_of",
    "from_origin",
    "given_key",
    "nobody_is",
    "origin_of",
    "record_level",
    "require_full",
    "with_caller",
    "without_key",
]

KEY_HEADERS = (b"authorization", b"x-api-key")  # OpenAI's and everyone's, Anthropic's
DIGITS = 16
CALLER, ORIGIN = "edge_store.caller", "edge_store.origin"  # keys of the scope


class Right(StrEnum):
    """What a key may do."""

    GENERATE = "generate"
    READ_OWN = "read_own"  # its tenant's results
    READ_ALL = "read_all"
    ADMIN = "admin"


class RecordLevel(StrEnum):
    """How much of a request is kept."""

    OFF = "off"
    META = "meta"  # no prompt, no output, no bodies
    FULL = "full"


LEVELS = (RecordLevel.OFF, RecordLevel.META, RecordLevel.FULL)
RECORD_HEADER = b"x-edge-store-record"


class Caller(Record, frozen=True, kw_only=True):
    """Who asks. ``key_id`` is None on a box that has no keys."""

    tenant: str | None = None
    rights: frozenset[Right] = frozenset({Right.GENERATE, Right.READ_OWN, Right.READ_ALL})
    key_id: str | None = None
    record_max: RecordLevel = RecordLevel.FULL

    @property
    def sees_all(self) -> bool:
        """Whether other tenants' results are shown to it."""
        return Right.READ_ALL in self.rights

    def sees(self, tenant: str | None) -> bool:
        """Whether what belongs to ``tenant`` is shown to it. Nobody's own is what has no tenant."""
        return self.sees_all or (tenant is not None and tenant == self.tenant)

    def require_own(self, tenant: str | None, what: str) -> None:
        """Who sees all may still change its own alone, but for an administrator. On a box that has
        no keys, everything is everybody's.

        Raises:
            Forbidden: ``what`` belongs to another ``tenant``.
        """
        if self.key_id is None or Right.ADMIN in self.rights or self.tenant == tenant:
            return
        raise Forbidden(
            f"{what} is another tenant's, and this key may only read it",
            hint="use a key of that tenant, or one with the right admin",
        )

    @property
    def only_tenant(self) -> str | None:
        """The one whose results it sees; None: it sees all."""
        if self.sees_all:
            return None
        assert self.tenant is not None, "who has no key sees all"
        return self.tenant


ShutOut = Callable[[Caller], EdgeStoreError | None]  # why a caller may not go on


def nobody_is(_caller: Caller) -> None:
    """The ``ShutOut`` of what has no keys."""


EVERYBODY = Caller()  # the daemon itself, or an operator at the box: sees all


class Origin(Record, frozen=True, kw_only=True):
    """What a request that does not come over HTTP brings with it: the daemon asks in somebody's
    name, for a line of a batch or a turn of a conversation.
    """

    result_id: ResultId | None = None  # made when it was accepted
    endpoint: str | None = None  # what was called, where that is not the route that generates
    key_hash: bytes | None = None  # of the Idempotency-Key that it was accepted with
    headers: tuple[tuple[bytes, bytes], ...] = ()  # that came with what it was made of
    # None: this is the only attempt. Else a failure that is followed by another attempt, and a cut
    # at a stop, is recorded under an id of its own.
    attempts_left: int | None = None
    batch_id: str | None = None
    custom_id: str | None = None
    conversation_id: str | None = None
    previous_id: str | None = None


NO_ORIGIN = Origin()


def with_caller(scope: Scope, caller: Caller) -> Scope:
    """Say in the scope who asks."""
    scope[CALLER] = caller
    return scope


def from_origin(scope: Scope, origin: Origin) -> Scope:
    """Say in the scope where the request comes from."""
    scope[ORIGIN] = origin
    return scope


def record_level(scope: Scope) -> RecordLevel:
    """How much of the request is kept: what the header ``x-edge-store-record`` asks for, else the
    most that its key may.

    Raises:
        InvalidRequest: there is no such level.
        Forbidden: the key keeps less.
    """
    most = caller_of(scope).record_max
    given = next((v for k, v in scope["headers"] if k.lower() == RECORD_HEADER), None)
    if given is None:
        return most
    try:
        level = RecordLevel(given.decode("latin-1").strip().lower())
    except ValueError:
        raise InvalidRequest(
            f"the header x-edge-store-record is {given[:40].decode(errors='replace')!r}; "
            "it can be `off`, `meta` or `full`"
        ) from None
    if LEVELS.index(level) > LEVELS.index(most):
        raise Forbidden(
            f"x-edge-store-record: {level}, but of this key's requests {most} is the most kept",
            hint="leave the header out, or have a key made with `--record full`",
        )
    return level


def require_full(scope: Scope) -> None:
    """Raises ``Forbidden`` for a request that would have kept what it is not to keep, or its key
    not: it is nothing but the keeping.
    """
    level = record_level(scope)
    if level is not RecordLevel.FULL:
        raise Forbidden(
            f"this keeps what is sent, and of this request {level} is the most that is kept",
            hint="leave x-edge-store-record out, and use a key made with `--record full`",
        )


def caller_of(scope: Scope) -> Caller:
    """Who asks. What has not come through the gate is told by its key alone."""
    found: Caller | None = scope.get(CALLER)
    if found is not None:
        return found
    for name, value in scope["headers"]:
        if name.lower() in KEY_HEADERS and value:
            return _named(value)
    return ANYBODY


def given_key(scope: Scope) -> bytes | None:
    """The key in ``Authorization: Bearer``, else in ``x-api-key``. It is looked for nowhere else:
    an address ends up in logs.
    """
    found = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:]).strip()
        if name == b"x-api-key":
            found = bytes(value).strip()
    return found


def without_key(scope: Scope) -> Scope:
    """The scope for an engine that must not see the key, which is ours."""
    return {**scope, "headers": [h for h in scope["headers"] if h[0] not in KEY_HEADERS]}


def origin_of(scope: Scope) -> Origin:
    """Where the request comes from; an empty one for what came over HTTP."""
    found: Origin = scope.get(ORIGIN, NO_ORIGIN)
    return found


ANYBODY = Caller()


@lru_cache(maxsize=1024)  # asked at admission and for the row
def _named(value: bytes) -> Caller:
    """Its tenant is ``key-`` and the beginning of the SHA-256 of the key."""
    key = value.removeprefix(b"Bearer ").strip()
    return Caller(tenant=f"key-{hashlib.sha256(key).hexdigest()[:DIGITS]}")
