"""``python -m edge_store.bench.bare PORT TOKEN_DELAY_MS``: the demo engine with no recorder."""

import asyncio
import gc
import signal
import sys

import uvloop

from edge_store.api.server import YOUNG_OBJECTS, HttpServer, bind
from edge_store.config import DemoSection, ServerSection
from edge_store.engine.demo import DemoEngine

__all__: list[str] = []

CONNECTIONS_MAX = 4096


async def main(port: int, token_delay_ms: float) -> None:
    """Serve until SIGTERM."""
    async with DemoEngine(DemoSection(token_delay_ms=token_delay_ms)) as engine:
        server = HttpServer(engine, CONNECTIONS_MAX)

        def stop() -> None:
            server.should_exit = True

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        await server.serve(sockets=[bind(ServerSection(port=port))])


if __name__ == "__main__":
    gc.set_threshold(YOUNG_OBJECTS)  # as in the daemon
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2])))
