"""``edge-store serve``: the daemon."""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from edge_store.cli.interrupt import need_no_output

__all__ = ["serve"]

RESTART_PAUSE_S = 2.0


@click.command()
@click.option("--config", help="The edge-store.toml to read, or its folder.")
@click.option("--host", help="Overrides server.host.")
@click.option("--port", type=int, help="Overrides server.port; 0 takes a free one.")
@click.option("--restart", is_flag=True, help="Start again when the engine has died (exit 70).")
def serve(config: str | None, host: str | None, port: int | None, *, restart: bool) -> None:
    """Answer requests and record every answer, until SIGTERM.

    The configuration is --config, else $EDGE_STORE_CONFIG, ./edge-store.toml or
    /etc/edge-store/edge-store.toml.

    \b
    Example:
      edge-store serve --config mybox
      EDGE_STORE_SERVER__PORT=9000 edge-store serve
      edge-store serve --restart   # what systemd does by itself
    """
    # it would put our own metrics among those of SGLang's processes; read when it is imported
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    assert __debug__, "edge-store does not run under python -O: its assertions guard the data"
    import asyncio
    import gc
    import resource

    import uvloop

    from edge_store import daemon
    from edge_store.api.server import YOUNG_OBJECTS
    from edge_store.cli.main import report
    from edge_store.config import load
    from edge_store.errors import Corrupt, EngineCrashed, NotAnEdgeStoreFile, SchemaTooNew
    from edge_store.lock import noted_device_id
    from edge_store.observability.logging import configure_logging
    from edge_store.recorder.damage import recovery
    from edge_store.status import known_device_id

    environ = dict(os.environ)  # before SGLang adds to it
    os.umask(0o027)  # the results are for their owner and group; -wal and -shm too
    loaded = load(config, overrides={"server.host": host, "server.port": port})
    need_no_output()
    configure_logging(loaded.config.log)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # each connection is a descriptor
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.set_threshold(YOUNG_OBJECTS)

    def explained(error: BaseException) -> BaseException:
        if isinstance(error, Corrupt | NotAnEdgeStoreFile | SchemaTooNew):
            replica = loaded.config.replica
            url = replica.url if replica.enabled else None
            # what lies there may be another box's
            whose = noted_device_id(Path(loaded.config.store.path)) or known_device_id(
                loaded.config
            )
            error.hint = recovery(error, Path(loaded.config.store.path), loaded.path, url, whose)
        return error

    def announce(url: str) -> None:
        if sys.stdout.isatty():
            click.echo(f"edge-store answers on {url}/v1 (model list: {url}/v1/models)")

    exit_code = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(daemon.serve(loaded.config, announce=announce))
        except BaseException as exc:  # noqa: BLE001  (the process must end: systemd starts another)
            exit_code = report(explained(exc))
        # The writer's connection and its thread stay as they are on purpose (see daemon.py).
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a full disk must not keep it from its end
                stream.flush()
        if restart and exit_code == EngineCrashed.exit_code:
            for number in (signal.SIGTERM, signal.SIGINT):  # nobody hears them any more
                signal.signal(number, signal.SIG_DFL)
            time.sleep(RESTART_PAUSE_S)
            os.execve(sys.executable, sys.orig_argv, environ)  # noqa: S606  (itself, again)
        os._exit(exit_code)
