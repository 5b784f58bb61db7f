"""``edge-store forget``: delete results for good."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import time_text, write_json

if TYPE_CHECKING:
    from edge_store.config import Config

__all__ = ["forget"]


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--user", metavar="ID", help="All results whose `user_id` this is.")
@click.option(
    "--where", metavar="SQL",
    help="All results for which this is true: an expression on the columns of `results` and "
    "`requests`.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Count, and delete nothing.")
@click.option("--timeout", default=600.0, show_default=True, help="Most seconds for the choice.")
def forget(
    config: str | None, user: str | None, where: str | None, timeout: float, *, dry_run: bool
) -> None:
    """Delete results for good, with their texts, bodies, repairs and responses.

    Each leaves a row of `deletions` with the reason forget: its id, times and digest, so that the
    sums and the chain stay whole, and copies made from now on lack it. The bytes are overwritten in
    the database; the WAL holds them until it is checkpointed, replicas and backups as long as they
    are kept: the answer says until when. It works while the daemon runs.

    \b
    Example:
      edge-store forget --user u-17 --dry-run
      edge-store forget --where "json_extract(metadata, '$.ward') = 'b'"
    """
    from edge_store.cli.change import changes
    from edge_store.config import load
    from edge_store.forget import chosen_results, pages_of
    from edge_store.sqlite import open_reader

    if (user is None) == (where is None):
        raise click.UsageError("give --user or --where: one of them")
    settings = load(config).config
    connection = open_reader(Path(settings.store.path))
    try:
        with interruptible():
            chosen = chosen_results(connection, user, where, timeout)
    finally:
        connection.close()
    said: dict[str, Any] = {"chosen": len(chosen), "deleted": 0, "dry_run": dry_run}

    def carry_out(make: Any) -> None:
        with (
            interruptible(),
            click.progressbar(
                length=len(chosen), label="forgetting", file=sys.stderr,
                hidden=not sys.stderr.isatty(),
            ) as bar,
        ):  # fmt: skip
            for page in pages_of(chosen):
                said["deleted"] += make("forget.results", page)
                bar.update(len(page.seqs))
        write_json({**said, **_remains(settings)}, sys.stdout)

    if dry_run or not chosen:
        write_json(said, sys.stdout)
    else:
        changes(settings, carry_out)


def _remains(config: "Config") -> dict[str, Any]:
    """Where the bytes still are, and until when."""
    from edge_store.clock import now_ms

    remains = {"wal": "until its next checkpoint"}
    if config.replica.enabled:
        # the snapshot that is newest now is replaced by the next, and kept for the retention
        kept_s = config.replica.snapshot_interval_s + config.replica.snapshot_retention_s
        remains["replica"] = f"until {time_text(now_ms() + round(kept_s * 1000))}"
    remains["copies"] = "older copies and backups, until they are pulled again or deleted"
    return {"remains": remains}
