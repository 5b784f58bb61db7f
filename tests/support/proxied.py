"""An upstream engine in front of a raw server."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support.rawserver import Behaviour, RawServer, answers

from edge_store.config import UpstreamSection
from edge_store.engine.upstream import UpstreamEngine

AMPLE_S = 30.0  # of the waits that a test does not want to run out


def settings(base_url: str, **changed: Any) -> UpstreamSection:
    values = {"connect_timeout_s": AMPLE_S, "read_timeout_s": AMPLE_S, **changed}
    return UpstreamSection(base_url=base_url, **values)


@contextlib.asynccontextmanager
async def proxied(
    behaviour: Behaviour, base: str = "{url}", **changed: Any
) -> AsyncIterator[tuple[UpstreamEngine, RawServer]]:
    """Both, running. What the engine asks at its start is answered 404 and not in ``requests``."""
    async with (
        RawServer(answers(b"", 404)) as server,
        UpstreamEngine(settings(base.format(url=server.url), **changed)) as engine,
    ):
        server.requests.clear()
        server.behaviour = behaviour
        yield engine, server
