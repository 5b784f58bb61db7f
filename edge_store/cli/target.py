"""Which database file a command is about, ``--db FILE`` or the box's own, and who writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edge_store.lock import LastBoot
    from edge_store.sqlite import Connection

__all__ = ["chosen_database", "last_boot", "last_boot_of", "still_open", "target_options"]

F = TypeVar("F", bound=Callable[..., Any])


def target_options(command: F) -> F:
    """Add ``--db`` and ``--config``."""
    command = click.option("--config", help="The box's edge-store.toml, or its folder.")(command)
    return click.option(
        "--db", type=click.Path(path_type=Path), multiple=True, callback=_only_one,
        help="A database file, as restored or pulled.",
    )(command)  # fmt: skip


def _only_one(_context: click.Context, _option: click.Parameter, given: tuple[Path, ...]) -> Any:
    """The file, or nothing: the last of several would answer as if it were all."""
    if len(given) > 1:
        raise click.BadParameter("one file at a time: `edge-store query` asks several as one")
    return given[0] if given else None


def chosen_database(db: Path | None, config: str | None) -> Path:
    """The file that the options name.

    Raises:
        UsageError: they name two.
    """
    if db is not None and config is not None:
        raise click.UsageError("give --db or --config, not both: each names a database")
    if db is not None:
        return db
    from edge_store.config import load

    return Path(load(config).config.store.path)


def last_boot(path: Path, *, answers: bool, is_copy: bool) -> "LastBoot":
    """What to think of a newest boot without an end. ``answers``: whether its daemon did."""
    from edge_store.lock import LastBoot, lock_holder

    if answers or lock_holder(path) is not None:  # held: it starts, or is busy
        return LastBoot.GOES_ON
    return LastBoot.COPIED if is_copy else LastBoot.CUT


def last_boot_of(path: Path, config: str | None, *, is_copy: bool) -> "LastBoot":
    """The same; its daemon is asked only where none holds the file."""
    from edge_store.lock import lock_holder

    answers = False
    if not is_copy and lock_holder(path) is None:
        from edge_store.config import load
        from edge_store.status import ask_daemon, known_device_id

        settings = load(config).config
        answers = ask_daemon(settings.server, known_device_id(settings))[0] is not None
    return last_boot(path, answers=answers, is_copy=is_copy)


def still_open(
    connection: "Connection", before: "LastBoot", look: "Callable[[], LastBoot]"
) -> "tuple[tuple[int, int] | None, LastBoot]":
    """The newest boot, with its last mark in UTC ms, if the reading that has begun sees no end of
    it; and what to think of it. ``look`` says what to think now, ``before`` is what it said before
    that reading: what ended meanwhile was not cut, nor what has started since.
    """
    from edge_store.lock import LastBoot
    from edge_store.sql import sql

    boot = connection.execute(sql("select_open_boot")).fetchone()
    is_cut = boot is not None and before is LastBoot.CUT
    return boot, look() if is_cut else before
