"""``POST /drills`` of the admin socket: a restore drill now, told step by step, one JSON object a
line. With ``?full=true`` it restores from nothing. Who leaves ends it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from edge_store.errors import EdgeStoreError, NotFound

__all__ = ["drill_routes"]

BEAT_S = 5.0  # a line at least so often: the connection is alive


def drill_routes(drills: Any) -> list[Route]:
    """``drills`` is ``replica.drill.Drills``, or None without a replica."""

    async def drill(request: Request) -> Response:
        if drills is None:
            raise NotFound("this box replicates nothing", hint="set replica.enabled = true")
        is_full = request.query_params.get("full") == "true"
        return StreamingResponse(
            _lines(drills, is_full=is_full), media_type="application/jsonlines"
        )

    return [Route("/drills", drill, methods=["POST"])]


async def _lines(drills: Any, *, is_full: bool) -> AsyncIterator[bytes]:
    steps: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.ensure_future(drills.drill_asked(steps.put_nowait, is_full=is_full))
    try:
        while not running.done():
            step = asyncio.ensure_future(steps.get())
            await asyncio.wait({running, step}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            step.cancel()
            yield _line({"step": step.result()} if step.done() else {})
        while not steps.empty():
            yield _line({"step": steps.get_nowait()})
        try:
            yield _line({"drills": running.result()})
        except EdgeStoreError as exc:
            yield _line({"error": {"code": exc.code, "message": str(exc), "hint": exc.hint}})
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError, EdgeStoreError):
            await running


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"
