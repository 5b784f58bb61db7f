"""Which database file a command is about: ``--db FILE``, or the box's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["chosen_database", "target_options"]

F = TypeVar("F", bound=Callable[..., Any])


def target_options(command: F) -> F:
    """Add ``--db`` and ``--config``."""
    command = click.option("--config", help="The box's edge-store.toml, or its folder.")(command)
    return click.option(
        "--db", type=click.Path(path_type=Path), help="A database file, as restored or pulled."
    )(command)


def chosen_database(db: Path | None, config: str | None) -> Path:
    """The file that the options name."""
    if db is not None:
        return db
    from edge_store.config import load

    return Path(load(config).config.store.path)
