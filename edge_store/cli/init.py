"""``edge-store init``: a configuration, a database and a device id."""

import errno
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from edge_store.errors import ConfigError, StoreError

__all__ = ["init"]

ENGINES = ("sglang", "upstream", "demo")
RESTORE_TIMEOUT_S = 6 * 3600.0
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=".", metavar="[DIR]")
@click.option("--engine", type=click.Choice(ENGINES), help="What will answer.")
@click.option("--upstream", metavar="URL", help="The server that an upstream engine asks.")
@click.option("--model", metavar="PATH", help="The model that an sglang engine loads.")
@click.option("--device-id", metavar="ID", help="Name of this box; one is made up without it.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Folder of the database, if not DIR."
)
@click.option(
    "--from-replica",
    metavar="URL",
    help="Go on as a box whose replica lies there: its replica.url.",
)
def init(  # noqa: PLR0913  (each is an option)
    directory: Path,
    engine: str | None,
    upstream: str | None,
    model: str | None,
    device_id: str | None,
    state_dir: Path | None,
    from_replica: str | None,
) -> None:
    """Set up a box in DIR: edge-store.toml, the database, and a device id.

    Overwrites nothing; one that was cut short is begun again. With --from-replica the database is
    restored, and the box goes on as that device: for a new machine in the place of one that is
    gone.

    \b
    Example:
      edge-store init mybox --engine demo
      edge-store init mybox --engine upstream --upstream http://127.0.0.1:30000
      edge-store init mybox --engine sglang --model /models/llama
      edge-store init mybox --from-replica s3://edge/fleet?endpoint=https://host --device-id box-7
    """
    from edge_store.config import load, render_toml
    from edge_store.config.load import UNFINISHED
    from edge_store.lock import DatabaseLock

    os.umask(0o027)  # the results are for their owner and group
    target = directory / "edge-store.toml"
    state = (state_dir or directory).absolute()
    database = state / "results.db"
    unfinished = target.with_name(f"{target.name}{UNFINISHED}")
    _refuse_what_is_there(target, database, is_unfinished=unfinished.exists())
    values, was_chosen = _engine_settings(engine, upstream, model)
    values["store.path"] = str(database) if state_dir else "results.db"
    values["replica.url"] = from_replica or f"file://{state / 'replica'}"
    _refuse_another(unfinished, from_replica)
    with _all_or_nothing(directory, state):
        for folder in (directory, state):
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        with DatabaseLock(database) as lock:
            _refuse_what_is_there(target, database, is_unfinished=not lock.was_open)
            unfinished.write_text(render_toml(values), encoding="utf-8")
            load(str(unfinished), environ={}, overrides={"device.id": device_id})
            for end in ("", "-wal", "-shm", "-journal"):  # of one that was cut short
                database.with_name(f"{database.name}{end}").unlink(missing_ok=True)
            found = (
                _restored(from_replica, device_id, database)
                if from_replica
                else _created(device_id, database)
            )
            unfinished.rename(target)  # last: until then another try is let

    click.echo(f"wrote {target}, {database}; this box is {found}")
    if values["engine.kind"] == "demo":
        click.secho(
            "This is a DEMO: the demo engine has no model and makes up its answers. "
            "Set engine.kind to upstream or sglang for a real one.",
            bold=True,
            err=not was_chosen,
        )
    click.echo(f"next: edge-store serve --config {target}")


def _refuse_another(unfinished: Path, from_replica: str | None) -> None:
    """What was to be a box's restored history shall not become a new box by a shorter command."""
    if from_replica is not None or not unfinished.exists():
        return
    url = tomllib.loads(unfinished.read_text(encoding="utf-8")).get("replica", {}).get("url", "")
    if url != f"file://{unfinished.parent.absolute() / 'replica'}":
        raise ConfigError(
            f"{unfinished}: an init with --from-replica {url} was cut short there",
            hint="give that command again; or remove the file, and a new box is set up",
        )


def _refuse_what_is_there(target: Path, database: Path, *, is_unfinished: bool) -> None:
    """``is_unfinished``: the database is what an init that was cut short has left, and so is what
    lies beside it.
    """
    for existing in (target, database):
        if existing.exists() and not (existing == database and is_unfinished):
            raise ConfigError(
                f"{existing} is already there: nothing was written",
                hint="use another DIR, or `edge-store serve` with this one",
            )
    for end in () if is_unfinished else ("-wal", "-journal"):
        existing = database.with_name(f"{database.name}{end}")
        if existing.exists():
            raise ConfigError(
                f"{existing} is there without its database, and may hold its newest commits: "
                "nothing was written",
                hint="move it to where that database is, under its name and with this ending",
            )


def _engine_settings(
    engine: str | None, upstream: str | None, model: str | None
) -> tuple[dict[str, Any], bool]:
    """What will answer, as settings, asked for where it is not given; and whether a person chose
    the engine.
    """
    kind, was_chosen = _chosen_engine(engine, upstream)
    values: dict[str, Any] = {"engine.kind": kind}
    if kind == "upstream":
        upstream = upstream or _asked_upstream()
    if upstream:
        values["engine.upstream.base_url"] = upstream
    if kind == "sglang":
        model = model or _asked_model()
        model = str(Path(model).absolute()) if Path(model).exists() else model
    if model:
        values["engine.sglang"] = {"model_path": model}
    return values, was_chosen


def _created(device_id: str | None, database: Path) -> str:
    """Make an empty database; the device id."""
    from edge_store.identity import create_identity
    from edge_store.schema import migrate
    from edge_store.sqlite import open_writer

    connection = open_writer(database)
    migrate(connection)
    found = create_identity(connection, device_id or "")
    connection.close()
    return found


def _restored(url: str, device_id: str | None, database: Path) -> str:
    """Restore the newest state of a box; its device id."""
    import asyncio

    from edge_store.cli.restoring import only_device, progress_bar
    from edge_store.ids import DeviceId
    from edge_store.replica.location import parse_location
    from edge_store.replica.restore import restore

    location = parse_location(url, key="--from-replica")
    device = DeviceId(device_id) if device_id else asyncio.run(only_device(location))
    with progress_bar() as on_progress:
        done = asyncio.run(
            restore(
                location,
                device,
                database,
                timeout_s=RESTORE_TIMEOUT_S,
                new_timeline=True,
                on_progress=on_progress,
            )
        )
    click.echo(f"restored {done.results} results of {device}, checked, in {done.seconds:.1f} s")
    click.echo("its API keys are as they were then: see `edge-store keys ls`")
    click.echo(
        "if the former box may still run, end it: the path is asked for at the start, and "
        "`edge-store replica take-over` takes it"
    )
    return device


@contextmanager
def _all_or_nothing(*folders: Path) -> Iterator[None]:
    """On an error, remove the folders and files that were not there before."""
    wanted = {path for folder in folders for path in (folder, *folder.parents)}
    made = sorted((path for path in wanted if not path.exists()), reverse=True)  # inner ones first
    before = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    try:
        yield
    except BaseException as exc:
        for folder in folders:
            for path in set(folder.iterdir() if folder.is_dir() else ()) - before:
                if path.is_file():
                    path.unlink()
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if isinstance(exc, FileExistsError | FileNotFoundError | NotADirectoryError):
            raise ConfigError(
                f"{exc.filename} cannot be made: {exc.strerror}", hint="use another DIR"
            ) from exc
        if isinstance(exc, OSError) and exc.errno in UNWRITABLE:
            raise StoreError(
                f"{folders[0]} cannot be written: {exc.strerror}; nothing was left there",
                hint="free space on that disk, or use another DIR",
            ) from exc
        raise


def _chosen_engine(given: str | None, upstream: str | None) -> tuple[str, bool]:
    """The engine, and whether a person chose it."""
    if given in ("demo", "sglang") and upstream:
        raise ConfigError(
            f"--engine {given} asks nobody, but --upstream is {upstream}",
            hint="leave one of them out",
        )
    if given is None and upstream:
        given = "upstream"
    if given is None and sys.stdin.isatty():
        given = click.prompt("Which engine?", type=click.Choice(ENGINES), default="demo")
    return given or "demo", given is not None


def _asked_model() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Folder of the model"))
    raise ConfigError("an sglang engine needs a model", hint="add --model /models/NAME")


def _asked_upstream() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Address of the upstream server", default="http://127.0.0.1:30000"))
    raise ConfigError("an upstream engine needs an address", hint="add --upstream http://HOST:PORT")
