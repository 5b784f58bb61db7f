"""One answer per ``Idempotency-Key``: who brings a tenant's key again gets the answer that is
stored for it, as it was, and nothing is generated.

Whoever brings a key first claims it, so that one run at a time exists of it; those who come
meanwhile wait for the COMMIT of that run. Only completed answers are given again: after any other
outcome the next in line has the claim. Claims live in this process, answers in the database: a
restart forgets nothing that was committed. What waits holds no slot, and has no row. No tenant
waits with more than ``HOLD_FACTOR`` times the places that are left, as with the bytes of ``Slots``,
so that others find one.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from edge_store.chain import find_link
from edge_store.clock import now_ms
from edge_store.config import RecorderSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import (
    ClientDisconnected,
    Corrupt,
    EdgeStoreError,
    GenerationTimeout,
    IdempotencyConflict,
    Overloaded,
    RecorderFull,
    TenantOverShare,
)
from edge_store.ids import ResultId
from edge_store.observability.metrics import Metrics
from edge_store.recorder.envelope import ACCEPTED, Envelope, accepted_body, answer_kind
from edge_store.recorder.slots import HOLD_FACTOR
from edge_store.recorder.waiting import Settled
from edge_store.result import Receipt, Record, Result, Status
from edge_store.sql import sql
from edge_store.sqlite import Connection, DatabaseThread, open_reader, translated

__all__ = [
    "REPLAYED",
    "RESPONSES",
    "Claim",
    "Idempotency",
    "KeyedRequest",
    "Name",
    "Stored",
    "StoredAnswer",
    "departure",
    "find_stored",
]

RESPONSES = "/v1/responses"
REPLAYED = (b"idempotency-replayed", b"true")
PIECE_BYTES = 64 * 1024  # of a stream that is sent again: the loop is free between two

Name = tuple[str | None, bytes]  # the tenant, and the SHA-256 of its key


Find = Callable[[Connection, Name, int], "Stored | None"]


class Keyed(Protocol):
    """As much of a request as its key needs."""

    @property
    def tenant(self) -> str | None: ...
    @property
    def key_hash(self) -> bytes | None: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def fingerprint(self) -> bytes: ...


class KeyedRequest(NamedTuple):
    """That much of one."""

    tenant: str | None
    key_hash: bytes
    endpoint: str
    fingerprint: bytes


class Stored(Record, frozen=True, kw_only=True):
    """A completed answer; or with 202 that there will be one."""

    receipt: Receipt
    endpoint: str
    fingerprint: bytes  # of the request
    http_status: int
    is_stream: bool
    body: bytes | None  # None: deleted, or never recorded


class StoredAnswer:
    """Stands in the engine's place and sends what the engine had sent."""

    gives_partial = False

    def __init__(
        self, stored: Stored, envelope: Envelope, *, piece_bytes: int = PIECE_BYTES
    ) -> None:
        assert stored.body is not None
        self.body = stored.body
        self._status = stored.http_status
        self._kind = answer_kind(envelope, self.body, is_stream=stored.is_stream)
        is_stream = self._kind == envelope.stream_kind
        self._piece_bytes = piece_bytes if is_stream else max(len(self.body), 1)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._kind), REPLAYED]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        for start in range(0, len(self.body), self._piece_bytes):
            piece = self.body[start : start + self._piece_bytes]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self, result_id: ResultId) -> None:
        """Nothing is generated."""


class Claim:
    """The right to run a request. One without a key has it, and shares it with nobody."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def follow(self, result: Result) -> Settled | None:  # noqa: ARG002  (nobody waits for it)
        """Let the fate of ``result`` decide the claim: what is to be told of it."""
        return None


class KeyClaim(Claim):
    """The claim of a key: it ends with the COMMIT, or where it is left before there is one."""

    def __init__(self, name: Name, entry: Keyed, claims: dict[Name, "KeyClaim"]) -> None:
        assert name not in claims
        self.endpoint, self.fingerprint = entry.endpoint, entry.fingerprint
        loop = asyncio.get_running_loop()
        self.looked_up: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Stored | None] = loop.create_future()
        self._name, self._claims = name, claims
        self._is_followed = False
        claims[name] = self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_followed:
            self.end(None)

    def follow(self, result: Result) -> Settled | None:
        self._is_followed = True
        return partial(self._settled, result)

    def _settled(self, result: Result, outcome: Receipt | EdgeStoreError) -> None:
        """Not when its caller was answered: a COMMIT that takes too long may still store it."""
        if not isinstance(outcome, Receipt) or result.status is not Status.COMPLETED:
            self.end(None)
            return
        stored = Stored(
            receipt=outcome,
            endpoint=result.endpoint,
            fingerprint=result.request_fingerprint,
            http_status=result.http_status,
            is_stream=result.stream,
            body=result.content.response_body,
        )
        self.end(stored)

    def end(self, stored: Stored | None) -> None:
        """Tell those who wait: the answer, or that the next of them may run it."""
        del self._claims[self._name]
        self.ended.set_result(stored)
        if not self.looked_up.done():
            self.looked_up.set_result(None)


class Idempotency:
    """Who has which key. Entered, it reads the database over a connection of its own, so that a
    long page of results delays nobody.
    """

    _reader: DatabaseThread

    def __init__(
        self, path: Path, config: RecorderSection, engine_timeout_s: float, metrics: Metrics
    ) -> None:
        self._path = path
        self._ttl_ms = round(config.idempotency_ttl_s * 1000)
        self._waiting_max = config.slots
        self._timeout_s = engine_timeout_s
        self._metrics = metrics
        self._claims: dict[Name, KeyClaim] = {}
        self._waiting: Counter[str | None] = Counter()  # by tenant

    async def __aenter__(self) -> Self:
        self._reader = await DatabaseThread.open(partial(open_reader, self._path))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._reader.close()

    async def claim(
        self, entry: Keyed, receive: Receive, find: "Find | None" = None
    ) -> Claim | Stored:
        """The answer that is stored for the key of ``entry``, else the right to run it, which its
        holder must enter at once. Waits while another has that right, at most ``engine.timeout_s``.
        Safe to cancel. ``find`` looks for what is stored, if not as ``find_stored`` does.

        Raises:
            IdempotencyConflict: the key was used for another request, or its answer is
                stored without a body.
            ClientDisconnected: the caller left while it waited.
            GenerationTimeout: the wait was too long.
            RecorderFull, TenantOverShare: too many wait, or too many of this tenant.
            StoreError: the database cannot be read.
        """
        if entry.key_hash is None or not self._ttl_ms:
            return Claim()
        name = (entry.tenant, entry.key_hash)
        if name in self._claims:
            stored = await self._attach(name, entry, receive)
            if stored is not None:
                return stored
        claim = KeyClaim(name, entry, self._claims)  # no await since the last one ended
        try:
            stored = await self._reader.run(find or find_stored, name, now_ms() - self._ttl_ms)
            if stored is not None:
                _require_same(entry, stored.endpoint, stored.fingerprint)
                _require_body(stored)
        except BaseException:
            claim.end(None)
            raise
        if stored is None:
            claim.looked_up.set_result(None)
            return claim
        claim.end(stored)
        return stored

    async def _attach(self, name: Name, entry: Keyed, receive: Receive) -> Stored | None:
        """Wait for the answer of whoever has the claim; None: nobody has it any more."""
        first = self._claims[name]
        if first.looked_up.done():  # who has nothing to wait for is told so, however many wait
            _require_same(entry, first.endpoint, first.fingerprint)
        left = self._waiting_max - self._waiting.total()
        if self._waiting[entry.tenant] >= HOLD_FACTOR * left:
            raise self._no_place(entry.tenant)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        gone = asyncio.ensure_future(departure(receive))
        self._waiting[entry.tenant] += 1
        self._metrics.attached.inc()
        try:
            while (claim := self._claims.get(name)) is not None:
                is_same = (claim.endpoint, claim.fingerprint) == (entry.endpoint, entry.fingerprint)
                # the other may yet be the one that is refused, for what is stored
                event: asyncio.Future[Any] = claim.ended if is_same else claim.looked_up
                either: set[asyncio.Future[Any]] = {gone, event}
                await asyncio.wait(
                    either, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    gone.result()
                    raise ClientDisconnected("the caller left before the end of the answer")
                if not event.done():
                    raise GenerationTimeout(
                        "the request under this Idempotency-Key has not ended within "
                        f"engine.timeout_s = {self._timeout_s} s"
                    )
                if not claim.ended.done():
                    _require_same(entry, claim.endpoint, claim.fingerprint)
                elif is_same and (stored := claim.ended.result()) is not None:
                    return stored
            return None
        finally:
            gone.cancel()
            self._waiting[entry.tenant] -= 1
            if not self._waiting[entry.tenant]:
                del self._waiting[entry.tenant]

    def _no_place(self, tenant: str | None) -> Overloaded:
        number, total = self._waiting[tenant], self._waiting.total()
        if number < total and number * len(self._waiting) > total:
            return TenantOverShare(
                f"{number} requests of this tenant wait for the answers to their Idempotency-Keys, "
                f"of {total}",
                hint="send fewer requests at once",
            )
        return RecorderFull(
            f"{total} requests wait for the answers to their Idempotency-Keys",
            hint="send fewer requests at once, or raise recorder.slots",
        )


async def departure(receive: Receive) -> None:
    """Wait until the caller has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _require_same(entry: Keyed, endpoint: str, fingerprint: bytes) -> None:
    if endpoint != entry.endpoint:
        raise IdempotencyConflict(
            f"this Idempotency-Key was used for {endpoint}, not for {entry.endpoint}",
            hint="use a new key for a new request",
        )
    if fingerprint != entry.fingerprint:
        raise IdempotencyConflict(
            "this Idempotency-Key was used with another body: "
            f"its SHA-256 began with {fingerprint.hex()[:12]}, not {entry.fingerprint.hex()[:12]}",
            hint="send the same bytes again, or use a new key for a new request",
        )


def _require_body(stored: Stored) -> None:
    if stored.body is None:
        raise IdempotencyConflict(
            f"the answer under this Idempotency-Key, result {stored.receipt.id}, is stored without "
            "its body: it was deleted, or not recorded (`store: false`, or a low disk)",
            hint="use a new key to have it generated anew",
        )


def find_stored(connection: Connection, name: Name, since: int) -> Stored | None:
    """The newest completed answer that was asked for under this name since then, or that a request
    waits in the queue. Of a response there is not the answer here, only that it was asked for.
    """
    tenant, key_hash = name
    params = {"tenant": tenant, "key_hash": key_hash, "since": since}
    with translated("the answer under an Idempotency-Key cannot be looked up"):
        response = connection.execute(sql("select_response_by_key"), params).fetchone()
        row = connection.execute(sql("select_answer_by_key"), params).fetchone()
        if response is not None:
            return _of_response(*response)
        if row is None:
            queued = connection.execute(sql("select_queued_request_by_key"), params).fetchone()
            return None if queued is None else _of_queued(*queued)
        result_id, seq, endpoint, fingerprint, http_status, stream, body = row
        link = find_link(connection, seq)
    if link is None:
        raise Corrupt(f"result {result_id} is here, but its commit is not: see `edge-store verify`")
    return Stored(
        receipt=Receipt(id=ResultId(result_id), seq=seq, committed_at=link.at),
        endpoint=endpoint,
        fingerprint=fingerprint,
        http_status=http_status,
        is_stream=bool(stream),
        body=body or None,  # no completed answer is empty
    )


def _of_response(response_id: str, fingerprint: bytes, at: int) -> Stored:
    return Stored(
        receipt=Receipt(id=ResultId(response_id), seq=0, committed_at=at),
        endpoint=RESPONSES,
        fingerprint=fingerprint,
        http_status=200,
        is_stream=False,
        body=None,
    )


def _of_queued(request_id: str, endpoint: str, fingerprint: bytes, at: int) -> Stored:
    return Stored(
        receipt=Receipt(id=ResultId(request_id), seq=0, committed_at=at),
        endpoint=endpoint,
        fingerprint=fingerprint,
        http_status=ACCEPTED,
        is_stream=False,
        body=accepted_body(ResultId(request_id)),
    )
