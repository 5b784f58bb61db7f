"""``POST /search/drop`` of the admin socket: that the search index be made anew. The writer has no
part in it: to give a large file's room back can take longer than a COMMIT may.
"""

import asyncio
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.answers import as_json
from edge_store.search.file import drop_index, index_bytes, index_path, take_index_away

__all__ = ["search_routes"]


def search_routes(database: Path, *, is_followed: bool) -> list[BaseRoute]:
    """It answers with the bytes of the index that goes. ``is_followed``: a room has it open, and
    lets go of it by itself.
    """
    path = index_path(database)

    def drop() -> int:
        size = index_bytes(path)
        (take_index_away if is_followed else drop_index)(path)
        return size

    async def dropped(_request: Request) -> Response:
        return as_json(await asyncio.to_thread(drop))

    return [Route("/search/drop", dropped, methods=["POST"])]
