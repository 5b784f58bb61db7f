"""``edge-store keys``: who may ask this box, and what."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import chosen_format, output_options, time_text, write_rows

if TYPE_CHECKING:
    from edge_store.keys import Key

__all__ = ["keys"]

SCOPES = ("generate", "read_own", "read_all", "admin")
LEVELS = ("off", "meta", "full")
LIMIT = click.IntRange(min=1, max=1_000_000)
COLUMNS = (
    "id", "name", "tenant", "scopes", "requests_per_minute", "concurrent", "record", "created_at",
    "expires_at", "state",
)  # fmt: skip

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


def moment(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """A date, or a date and time, as UTC milliseconds."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        problem = f"{value!r} is no date, as 2027-01-31 or 2027-01-31T08:00Z is"
        raise click.BadParameter(problem) from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@click.group()
def keys() -> None:
    """API keys: who may ask this box, and what.

    Without any key, whoever reaches the box over loopback may ask it and read everything. From the
    first key on nobody may without one, and every result belongs to the tenant of its key.

    \b
    Example:
      edge-store keys create ward-b --tenant clinic
      edge-store keys ls
      edge-store keys revoke key_0a1b2c3d4e5f
    """


@keys.command()
@click.argument("name")
@click.option("--tenant", required=True, help="Whose results it makes and reads.")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True,
    default=("generate", "read_own"), show_default=True,
    help="A right; give it once for each. read_all shows every tenant's results.",
)  # fmt: skip
@click.option("--requests-per-minute", type=LIMIT, help="Most requests a minute.")
@click.option("--concurrent", type=LIMIT, help="Most requests in flight.")
@click.option(
    "--record", type=click.Choice(LEVELS), default="full", show_default=True,
    help="The most that is kept of its requests.",
)  # fmt: skip
@click.option(
    "--expires",
    callback=moment,
    metavar="DATE",
    help="When it ends, UTC: 2027-01-31, or with a time.",
)
@config_option
def create(  # noqa: PLR0913  (click hands over one by one what the key is made of)
    name: str,
    tenant: str,
    scopes: tuple[str, ...],
    requests_per_minute: int | None,
    concurrent: int | None,
    record: str,
    expires: int | None,
    config: str | None,
) -> None:
    """Make a key and print it, once: only its SHA-256 is stored. It holds at once, whether the
    daemon runs or not.

    \b
    Example:
      edge-store keys create ward-b --tenant clinic
      edge-store keys create audit --tenant clinic --scope read_own --expires 2027-01-31
      edge-store keys create nightly --tenant lab --requests-per-minute 600 --concurrent 8
      export OPENAI_API_KEY=$(edge-store keys create app --tenant shop)
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.keys import CreateKey, digest_of, new_key
    from edge_store.recorder.caller import RecordLevel, Right

    key = new_key()

    def said(made: dict[str, Any]) -> None:
        click.echo(key)
        rights = ", ".join(made["scopes"])
        click.echo(f"{made['key_id']} of tenant {made['tenant']}: {rights}", err=True)
        click.echo("keep the key now: it is not shown again", err=True)

    params = CreateKey(
        name=name,
        tenant=tenant,
        scopes=tuple(map(Right, scopes)),
        requests_per_minute=requests_per_minute,
        concurrent=concurrent,
        record_max=RecordLevel(record),
        expires_at=expires,
        sha256=digest_of(key.encode()),
    )
    change(load(config).config, "keys.create", params, said=said)


@keys.command()
@config_option
@output_options
def ls(config: str | None, fmt: str | None) -> None:
    """List the keys that were ever made: what each may, and whether it is live, expired or revoked.

    \b
    Example:
      edge-store keys ls
    """
    from edge_store.config import load
    from edge_store.keys import read_keys
    from edge_store.query import QueryResult
    from edge_store.sqlite import open_reader

    connection = open_reader(Path(load(config).config.store.path))
    try:
        found = read_keys(connection)
    finally:
        connection.close()
    rows = [_row(key) for key in found]
    written = QueryResult(columns=COLUMNS, rows=rows, is_cut=False)
    write_rows(written, chosen_format(fmt, sys.stdout), sys.stdout)


@keys.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config: str | None) -> None:
    """Shut a key out for good: its next request is answered 401.

    \b
    Example:
      edge-store keys revoke key_0a1b2c3d4e5f
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.keys import RevokeKey

    def said(done: dict[str, Any]) -> None:
        click.echo(f"{done['key_id']}: revoked since {time_text(done['revoked_at'])}")

    change(load(config).config, "keys.revoke", RevokeKey(key_id=key_id), said=said)


def _row(key: "Key") -> tuple[Any, ...]:
    from edge_store.clock import now_ms

    return (
        key.key_id,
        key.name,
        key.tenant,
        " ".join(key.scopes),
        key.requests_per_minute,
        key.concurrent,
        key.record_max.value,
        time_text(key.created_at),
        None if key.expires_at is None else time_text(key.expires_at),
        key.state(now_ms()).value,
    )
