"""``POST /imports`` of the admin socket: results that were made elsewhere, some at a time."""

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.faults import UNFIT, refusal_of
from edge_store.recorder.intake import Intake, Take
from edge_store.result import Record, Result, Said

__all__ = ["import_routes"]

T = TypeVar("T")

PIECE_BYTES = 256 * 1024  # decoded in under a millisecond; then others have their turn


class Pieces(Record, frozen=True, kw_only=True):
    """``Take``, with each of its results as it came."""

    results: tuple[msgspec.Raw, ...]
    said: tuple[msgspec.Raw, ...] = ()


def import_routes(intake: Intake) -> list[BaseRoute]:
    """The answer says what became of them, once they are committed."""

    async def take(request: Request) -> Response:
        pieces = _decoded(await request.body(), Pieces, "an import")
        asked = Take(
            results=tuple(await _each(pieces.results, Result, "results")),
            said=tuple(await _each(pieces.said, Said, "said")),
        )
        return as_json(await intake.take(asked))

    return [Route("/imports", take, methods=["POST"])]


async def _each(pieces: tuple[msgspec.Raw, ...], kind: type[T], name: str) -> list[T]:
    """One by one: decoding holds the interpreter, on whichever thread."""
    found: list[T] = []
    size = 0
    for number, piece in enumerate(pieces):
        found.append(_decoded(piece, kind, f"{name}[{number}] of an import"))
        size += len(memoryview(piece))
        if size > PIECE_BYTES:
            await asyncio.sleep(0)
            size = 0
    return found


def _decoded(body: Any, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNFIT as exc:
        raise refusal_of(exc, kind, body=bytes(body), what=what) from exc
