"""``edge-store logs rm``, ``pin`` and ``unpin``: what is changed about results."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.logs_text import ids_argument
from edge_store.cli.selecting import require_not_empty, selection_of, selection_options
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.config import Config

__all__ = ["pin", "rm", "unpin"]

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@selection_options()
@click.option("--dry-run", is_flag=True, help="Count, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--even-pinned", is_flag=True, help="Results that are pinned, too.")
@click.option("--even-held", is_flag=True, help="Results that are held (`retention hold`), too.")
@click.option(
    "--timeout", type=POSITIVE, default=600.0, show_default=True,
    help="Most seconds for the choice.",
)  # fmt: skip
@config_option
def rm(ids: tuple[str, ...], config: str | None, timeout: float, **chosen: Any) -> None:
    """Delete results for good, with all that holds their text: as `edge-store forget` does.

    Give ids or their beginnings, or the options that select. Where one of them is pinned or held,
    nothing is deleted.

    \b
    Example:
      edge-store logs rm 0190d3e1-7c1f-7a5e
      edge-store logs rm --until 2026-01-31 --status failed --dry-run
    """
    from edge_store.cli.forget import forget_chosen
    from edge_store.config import load
    from edge_store.forget.choice import Who

    flags = {name: chosen.pop(name) for name in ("dry_run", "yes", "even_pinned", "even_held")}
    require_not_empty(chosen, "delete", "deleted")
    selection = selection_of(chosen)
    if bool(ids) == bool(selection.values):
        raise click.UsageError("give ids, or options that select: one of them")
    settings = load(config).config
    if ids:
        who = Who(None, None, timeout, ids=_found(settings, ids))
    else:
        who = Who(None, None, timeout, selection=selection)
    forget_chosen(settings, who, flags)


@click.command()
@ids_argument
@config_option
def pin(ids: tuple[str, ...], config: str | None) -> None:
    """Keep results from being deleted: by retention, and by `rm` and `forget` without
    --even-pinned.

    \b
    Example:
      edge-store logs pin 0190d3e1-7c1f-7a5e
    """
    _pin(ids, config, is_pinned=True)


@click.command()
@ids_argument
@config_option
def unpin(ids: tuple[str, ...], config: str | None) -> None:
    """Let pinned results be deleted again.

    \b
    Example:
      edge-store logs unpin 0190d3e1-7c1f-7a5e
    """
    _pin(ids, config, is_pinned=False)


def _pin(ids: tuple[str, ...], config: str | None, *, is_pinned: bool) -> None:
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.logs.pins import PINS_MAX, Pin

    if len(ids) > PINS_MAX:
        raise click.UsageError(f"{len(ids)} ids: {PINS_MAX} at a time")
    settings = load(config).config
    params = Pin(ids=_found(settings, ids), is_pinned=is_pinned)

    def said(count: int) -> None:
        word = "pinned" if is_pinned else "unpinned"
        left = f", {len(params.ids) - count} were already" if count < len(params.ids) else ""
        click.echo(f"{count} {word}{left}")

    change(settings, "logs.pin", params, said=said)


def _found(settings: "Config", ids: tuple[str, ...]) -> tuple[str, ...]:
    """The whole ids, each once."""
    from edge_store.logs.find import find_id
    from edge_store.sqlite import open_reader

    connection = open_reader(Path(settings.store.path))
    try:
        return tuple(dict.fromkeys(find_id(connection, each) for each in ids))
    finally:
        connection.close()
