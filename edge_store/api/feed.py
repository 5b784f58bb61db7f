"""``GET /v1/changes``: the results that are committed after a ``seq``, as lines or as events.

Who follows is told by the writer's COMMIT, not by a clock. Nothing is kept for anybody: each reads
the database from where it is, and one that does not take what it is sent is cut off, to come back
with the last ``seq`` that it has.
"""

import asyncio
import re
from collections.abc import Awaitable
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import integer_parameter
from edge_store.api.described import Form, described, text, whole
from edge_store.api.pages import FILTERS, SEQ_MAX, Filters, filters_of, page_after, public
from edge_store.api.services import Services
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import InvalidRequest, Overloaded, TimelineChanged
from edge_store.loggers import get_logger
from edge_store.recorder.caller import Caller, caller_of
from edge_store.recorder.envelope import EVENT_STREAM, JSON_LINES
from edge_store.recorder.sharing import Shares
from edge_store.sql import sql
from edge_store.sqlite import Connection, translated

__all__ = ["feed_routes"]

log = get_logger(__name__)

LISTENERS_MAX = 72  # connections that wait for a COMMIT; a tenant alone has 64
LIMIT_MAX = 1000
WAIT_S_MAX = 60
TAIL_ROWS = 100  # in one piece of a tail
SLOW_S = 10.0  # a piece that is not taken within it ends the tail
QUIET_S = 15.0  # between two signs of life
SEQ = re.compile(r"[0-9]{1,18}")
GATHER_S = 0.05  # between two reads of one tail: a COMMIT may come each millisecond


class Place(NamedTuple):
    """Where a follower is."""

    seq: int
    timeline: str


class Piece(NamedTuple):
    """Some results, ready to be sent; all up to ``next_seq`` that are wanted."""

    body: bytes
    next_seq: int
    has_more: bool


class Follower(NamedTuple):
    """Who asks for what."""

    caller: Caller
    filters: Filters


class Feed:
    """Everybody who follows."""

    def __init__(self, services: Services) -> None:
        self.reader = services.reader
        self.commits = services.commits
        self.listeners = Shares(LISTENERS_MAX, "others follow", "close one, or ask later")
        self.shut_out = services.shut_out


def feed_routes(services: Services) -> list[BaseRoute]:
    """/v1/changes."""
    feed = Feed(services)

    @described(
        "Results as they are committed: lines, or events where `Accept` asks for them",
        query=(
            whole("after_seq", 0, SEQ_MAX),
            whole("limit", 1, LIMIT_MAX),
            whole("wait_s", 0, WAIT_S_MAX),
            text("timeline"),
            *FILTERS,
        ),
        headers=(
            text("Last-Event-ID", "A `seq`: events go on after it", pattern=f"^{SEQ.pattern}$"),
        ),
        gives=(Form(JSON_LINES.decode(), {}), Form(EVENT_STREAM.decode(), {})),
    )
    async def changes(request: Request) -> Response:
        follower = Follower(caller_of(request.scope), filters_of(request))
        if EVENT_STREAM.decode() in request.headers.get("accept", ""):
            return Tail(feed, follower, await feed.reader.run(_place, *_tail_start(request)))
        after = integer_parameter(request, "after_seq", 0, 0, SEQ_MAX)
        limit = integer_parameter(request, "limit", LIMIT_MAX, 1, LIMIT_MAX)
        wait_s = integer_parameter(request, "wait_s", 0, 0, WAIT_S_MAX)
        timeline = request.query_params.get("timeline")
        place = await feed.reader.run(_place, after, timeline)
        piece = await feed.reader.run(_lines, follower, place.seq, limit)
        if not piece.body and not piece.has_more and wait_s:
            with feed.listeners.place(follower.caller.tenant):
                piece = await _awaited(feed, follower, piece.next_seq, limit, wait_s, request)
        headers = {
            "content-type": JSON_LINES.decode(),
            "x-edge-store-timeline": place.timeline,
            "x-edge-store-next-seq": str(piece.next_seq),
        }
        return Response(piece.body, headers=headers)

    return [Route("/v1/changes", changes)]


async def _awaited(
    feed: Feed, follower: Follower, seq: int, limit: int, wait_s: float, request: Request
) -> Piece:
    """The next results that are wanted; nothing, when none comes in time."""
    gone = asyncio.ensure_future(_departure(request.receive))
    ends_at = asyncio.get_running_loop().time() + wait_s
    piece = Piece(b"", seq, has_more=False)
    try:
        while not piece.body and not feed.commits.is_over:
            left = ends_at - asyncio.get_running_loop().time()
            if not await _before(feed.commits.past(piece.next_seq), gone, left):
                break
            if (refusal := feed.shut_out(follower.caller)) is not None:
                raise refusal
            piece = await feed.reader.run(_lines, follower, piece.next_seq, limit)
    finally:
        gone.cancel()
    return piece


async def _before(event: Awaitable[None], gone: asyncio.Future[None], timeout_s: float) -> bool:
    """Whether the event comes before the caller leaves and the time is up."""
    waiting = asyncio.ensure_future(event)
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, timeout=max(timeout_s, 0), return_when=asyncio.FIRST_COMPLETED)
        return waiting.done() and not gone.done()
    finally:
        waiting.cancel()


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Tail(Response):
    """Server-sent events without an end: one for each result, its ``id`` is its ``seq``."""

    def __init__(self, feed: Feed, follower: Follower, place: Place) -> None:
        headers = {
            "content-type": EVENT_STREAM.decode(),
            "cache-control": "no-cache",
            "x-edge-store-timeline": place.timeline,
        }
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._feed = feed
        self._follower = follower
        self._seq = place.seq

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        tenant = self._follower.caller.tenant
        with self._feed.listeners.place(tenant):  # raises before anything is sent
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            gone = asyncio.ensure_future(_departure(receive))
            try:
                await self._follow(gone, send)
                await _sent(send, b"", more=False)
            except TimeoutError:  # its connection is closed, as the answer has no end
                log.warning("follower_cut", seq=self._seq, timeout_s=SLOW_S)
            finally:
                gone.cancel()

    async def _follow(self, gone: asyncio.Future[None], send: Send) -> None:
        """Until it leaves, its key is over, or the daemon stops: then it learns why as it comes
        back. Raises ``TimeoutError`` where it takes nothing.
        """
        loop, commits = asyncio.get_running_loop(), self._feed.commits
        await _sent(send, b": following\n\n")
        while not gone.done() and self._feed.shut_out(self._follower.caller) is None:
            began = loop.time()
            try:
                piece = await self._feed.reader.run(_events, self._follower, self._seq, TAIL_ROWS)
            except Overloaded as exc:  # others read much
                await asyncio.sleep(exc.retry_after_s)
                continue
            if piece.body:
                await _sent(send, piece.body)
            self._seq = piece.next_seq
            if piece.has_more:
                continue
            if commits.is_over:
                return
            if await _before(commits.past(self._seq), gone, QUIET_S):
                await asyncio.sleep(max(0.0, began + GATHER_S - loop.time()))
            elif not gone.done():
                await _sent(send, b": quiet\n\n")


async def _sent(send: Send, body: bytes, *, more: bool = True) -> None:
    async with asyncio.timeout(SLOW_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})


def _tail_start(request: Request) -> tuple[int | None, str | None]:
    """From where, and on which timeline: after ``Last-Event-ID``, after ``after_seq``, or now."""
    timeline = request.query_params.get("timeline")
    last = request.headers.get("last-event-id")
    if last is not None:
        if SEQ.fullmatch(last) is None:
            raise InvalidRequest(f"the header Last-Event-ID = {last!r} is no seq")
        return int(last), timeline
    if "after_seq" in request.query_params:
        return integer_parameter(request, "after_seq", 0, 0, SEQ_MAX), timeline
    return None, timeline


def _place(connection: Connection, seq: int | None, timeline: str | None) -> Place:
    """Where a follower begins.

    Raises:
        TimelineChanged: the file is not the one that ``timeline`` or ``seq`` are of: the box was
            restored since, or begun anew.
        InvalidRequest: nothing has that ``seq`` yet.
    """
    with translated("the timeline cannot be read"):
        newest, reason = connection.execute(sql("select_timeline")).fetchone()
        (last,) = connection.execute(sql("select_last_seq")).fetchone()
        asked = {"timeline": newest}
        row = connection.execute(sql("select_first_seq_of_timeline"), asked).fetchone()
    is_restored = reason == "restored"
    is_beyond = seq is not None and seq > last
    if timeline not in (None, newest) or (is_beyond and is_restored and timeline is None):
        after = row[0] - 1 if row else last
        what = "this box was restored" if is_restored else "this box has another database now"
        raise TimelineChanged(
            f"{what}: its timeline is {newest}, which begins after seq {after}, and its newest "
            f"result is {last}; what you have beyond {after} may not be here",
            hint=f"go on with after_seq={after}&timeline={newest}",
        )
    if is_beyond:
        raise InvalidRequest(
            f"after_seq = {seq} is beyond the end: the newest result here is {last}",
            hint=f"go on with after_seq={last}",
            param="after_seq",
        )
    return Place(last if seq is None else seq, newest)


def _lines(connection: Connection, follower: Follower, seq: int, limit: int) -> Piece:
    page = page_after(connection, follower.caller, follower.filters, seq, limit)
    lines = [msgspec.json.encode(public(recorded)) + b"\n" for recorded in page.results]
    return Piece(b"".join(lines), page.next_seq, page.has_more)


def _events(connection: Connection, follower: Follower, seq: int, limit: int) -> Piece:
    page = page_after(connection, follower.caller, follower.filters, seq, limit)
    events = [
        b"id: %d\ndata: %s\n\n" % (recorded.seq, msgspec.json.encode(public(recorded)))
        for recorded in page.results
    ]
    return Piece(b"".join(events), page.next_seq, page.has_more)
