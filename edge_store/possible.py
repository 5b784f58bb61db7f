"""Whether a daemon could begin with the settings on this box: what they name is there, and can be
used. Nothing is started, asked or changed; no secret is looked for but in files that they name, as
the daemon's unit has them. What takes more, as to listen on the address, the daemon finds.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from edge_store.api.server import require_certificate, require_guarded
from edge_store.config import Config, EngineKind
from edge_store.errors import ConfigError, EdgeStoreError, StoreError
from edge_store.keys import read_keys
from edge_store.sqlite import open_reader, require_safe_sqlite

__all__ = ["faults_of", "require_possible"]


def require_possible(config: Config) -> None:
    """What is known before anything begins. What the rest asks of an engine, a replica and a sink
    they find out themselves.

    Raises:
        ConfigError, VulnerableSQLite: settings with which nothing can begin.
    """
    for require in FIRST:
        require(config)


def faults_of(config: Config) -> Iterator[EdgeStoreError]:
    """Everything that keeps a daemon from beginning, or a part of it from working."""
    for require in (*FIRST, _address, _alerts, _archive, _engine):
        try:
            require(config)
        except EdgeStoreError as exc:
            yield exc
    yield from _faults_of_sinks(config)


def _sqlite(config: Config) -> None:
    require_safe_sqlite(allow_vulnerable=config.store.allow_vulnerable_sqlite)


def _replica(config: Config) -> None:
    if config.replica.enabled:  # before there is a boot: it would count as one that was cut
        from edge_store.replica.location import parse_location  # noqa: PLC0415  (slow to load)

        parse_location(config.replica.url)


def _folder(config: Config) -> None:
    path = Path(config.store.path)
    if not path.parent.is_dir():
        raise ConfigError(
            f"store.path = {str(path)!r}: there is no folder {path.parent}",
            hint="create it, or run `edge-store init`",
        )


def _certificate(config: Config) -> None:
    require_certificate(config.server)


FIRST: tuple[Callable[[Config], None], ...] = (_sqlite, _replica, _folder, _certificate)


def _address(config: Config) -> None:
    """Of a name it is not known here which address it will be."""
    server = config.server
    try:
        ip_address(server.host)
    except ValueError:
        return
    if not server.allow_open and not _may_have_keys(Path(config.store.path)):
        require_guarded(server.host, server, has_keys=False)


def _may_have_keys(path: Path) -> bool:
    """Also where they cannot be read: what is wrong with the file the daemon finds."""
    if not path.exists():
        return False
    try:
        with closing(open_reader(path)) as connection:
            return bool(read_keys(connection))
    except StoreError:
        return True


def _alerts(config: Config) -> None:
    if not config.alerts.urls_file:
        return
    from edge_store.alerts.room import alert_urls  # noqa: PLC0415  (slow to load)

    try:
        alert_urls(config.alerts)
    except ConfigError as exc:
        raise ConfigError(
            f"alerts.urls_file = {config.alerts.urls_file!r}: {exc}",
            hint="create it, readable for the daemon's user, or leave the setting empty",
        ) from exc


def _archive(config: Config) -> None:
    if config.retention.archive:
        from edge_store.replica.location import parse_location  # noqa: PLC0415  (slow to load)

        parse_location(config.retention.archive, key="retention.archive")


def _engine(config: Config) -> None:
    match config.engine.kind:
        case EngineKind.UPSTREAM:
            from edge_store.engine.upstream import require_address  # noqa: PLC0415  (slow to load)

            require_address(config.engine.upstream.base_url)
        case EngineKind.SGLANG:
            from edge_store.engine.sglang import find_sglang  # noqa: PLC0415  (slow to load)

            find_sglang(config.engine.sglang)
        case EngineKind.DEMO:
            pass


def _faults_of_sinks(config: Config) -> Iterator[EdgeStoreError]:
    if not config.sinks:
        return
    from edge_store.sinks.kinds import make_sink  # noqa: PLC0415  (slow to load)
    from edge_store.sinks.sink import Place, trusted  # noqa: PLC0415

    for sink in config.sinks:
        try:
            make_sink(sink, Place(sink.url, ""), "")
            trusted(sink)
        except ConfigError as exc:
            yield exc
