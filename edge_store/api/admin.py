"""The admin socket: changes that an operator asks for while the daemon runs.

A Unix socket beside the database, for its owner and group alone: who may open it may change. Each
change runs in the writer's turn (``Writer.change``), as it would in a command on a stopped box.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge_store.api.access import Access
from edge_store.api.answers import HANDLERS, as_json
from edge_store.api.services import Changing
from edge_store.changes import CHANGES
from edge_store.errors import NotFound
from edge_store.faults import UNFIT, refusal_of
from edge_store.keys import read_keys
from edge_store.socketpath import reachable_socket

__all__ = ["admin_routes", "bind_admin"]

MODE = 0o660


def bind_admin(database: Path) -> socket.socket:
    """The socket, in place of one that a killed daemon left. Call it under the database's lock."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with reachable_socket(database) as path:
        path.unlink(missing_ok=True)
        before = os.umask(0o777 - MODE)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    return listener


def admin_routes(
    change: Changing, access: Access | None = None, more: Sequence[BaseRoute] = ()
) -> Starlette:
    """``POST /changes/{name}`` with the change's parameters as JSON. ``access`` has the keys anew
    before who asked knows of it; ``more`` are routes of other rooms.
    """

    async def carry_out(request: Request) -> Response:
        name = request.path_params["name"]
        asked = CHANGES.get(name)
        if asked is None:
            raise NotFound(f"there is no change {name!r}", hint="is the daemon an older version?")
        body = await request.body()
        try:
            params = msgspec.json.decode(body, type=asked.params)
        except UNFIT as exc:
            raise refusal_of(exc, asked.params, body=body, what=f"what {name} takes") from exc
        try:
            return as_json(await change(asked.carry_out, params))
        finally:  # after an I/O error too: the change may be in
            if access is not None:
                access.renew(await change(read_keys))

    return Starlette(
        routes=[Route("/changes/{name}", carry_out, methods=["POST"]), *more],
        exception_handlers=HANDLERS,
    )
