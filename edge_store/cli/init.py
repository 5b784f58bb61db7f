"""``edge-store init``: a configuration, a database and a device id."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from edge_store.errors import ConfigError

__all__ = ["init"]

ENGINES = ("sglang", "upstream", "demo")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path), default=".", metavar="[DIR]")
@click.option("--engine", type=click.Choice(ENGINES), help="What will answer.")
@click.option("--upstream", metavar="URL", help="The server that an upstream engine asks.")
@click.option("--model", metavar="PATH", help="The model that an sglang engine loads.")
@click.option("--device-id", metavar="ID", help="Name of this box; one is made up without it.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Folder of the database, if not DIR."
)
def init(
    directory: Path,
    engine: str | None,
    upstream: str | None,
    model: str | None,
    device_id: str | None,
    state_dir: Path | None,
) -> None:
    """Set up a box in DIR: edge-store.toml, the database, and a device id.

    Overwrites nothing.

    \b
    Example:
      edge-store init mybox --engine demo
      edge-store init mybox --engine upstream --upstream http://127.0.0.1:30000
      edge-store init mybox --engine sglang --model /models/llama
    """
    from edge_store.config import load, render_toml
    from edge_store.identity import create_identity
    from edge_store.lock import DatabaseLock
    from edge_store.schema import migrate
    from edge_store.sqlite import open_writer

    os.umask(0o027)  # the results are for their owner and group
    target = directory / "edge-store.toml"
    state = (state_dir or directory).absolute()
    database = state / "results.db"
    for existing in (target, database):
        if existing.exists():
            raise ConfigError(
                f"{existing} is already there: nothing was written",
                hint="use another DIR, or `edge-store serve` with this one",
            )
    engine, was_chosen = _chosen_engine(engine, upstream)
    if engine == "upstream" and not upstream:
        upstream = _asked_upstream()
    if engine == "sglang":
        model = model or _asked_model()
        model = str(Path(model).absolute()) if Path(model).exists() else model

    values: dict[str, Any] = {
        "store.path": str(database) if state_dir else "results.db",
        "engine.kind": engine,
        "replica.url": f"file://{state / 'replica'}",
    }
    if upstream:
        values["engine.upstream.base_url"] = upstream
    if model:
        values["engine.sglang"] = {"model_path": model}
    with _all_or_nothing(directory, state):
        for folder in (directory, state):
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        with target.open("x", encoding="utf-8") as file:
            file.write(render_toml(values))
        load(str(target), environ={}, overrides={"device.id": device_id})
        with DatabaseLock(database):
            connection = open_writer(database)
            migrate(connection)
            found = create_identity(connection, device_id or "")
            connection.close()

    click.echo(f"wrote {target}, {database}; this box is {found}")
    if engine == "demo":
        click.secho(
            "This is a DEMO: the demo engine has no model and makes up its answers. "
            "Set engine.kind to upstream or sglang for a real one.",
            bold=True,
            err=not was_chosen,
        )
    click.echo(f"next: edge-store serve --config {target}")


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
