"""``edge-store verify``: is every row as it was committed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import time_text, write_json
from edge_store.cli.target import chosen_database, target_options

if TYPE_CHECKING:
    from edge_store.chain import ChainCheck

__all__ = ["verify"]

DIGEST_BYTES = 32


def _digest(_context: click.Context, option: click.Parameter, text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise click.BadParameter(f"{text!r} is not 64 hexadecimal digits", param=option)
    return digest


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@target_options
@click.option(
    "--head", metavar="DIGEST", callback=_digest,
    help="A digest of a commit, noted earlier or elsewhere: it must be in the chain.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(
    file: Path | None, db: Path | None, config: str | None, head: bytes | None, *, as_json: bool
) -> None:
    """Check the digest chain: find any row that was changed, removed or added since its commit.

    FILE is a database, as --db, or a backup: its sha256 and its pages are checked, too.

    It works while the daemon runs. The check ends at the newest commit in the file: that newer ones
    were cut off is found only with --head. It does not check the pages of the file: `edge-store
    doctor --full` does, of the live one. Exits 0 when nothing is wrong, 65 when something is.

    \b
    Example:
      edge-store verify
      edge-store verify --db restored.db --head 5f0c…
      edge-store verify /mnt/usb/box-7.db.zst
    """
    from edge_store import exits
    from edge_store.verify import verify_file

    if file is not None and (db is not None or config is not None):
        raise click.UsageError("give FILE, --db or --config, not both: each names a database")
    path = chosen_database(file or db, config)
    with interruptible():
        check = verify_file(path, head=head) if file is None else _check_backup(file, head)
    if as_json:
        write_json(_object(check), sys.stdout)
    else:
        for name, text in _lines(check, head):
            click.echo(f"{name:<8} {text}")
    if check.faults:
        sys.exit(exits.CORRUPT)


def _check_backup(file: Path, head: bytes | None) -> "ChainCheck":
    """As a backup, or as a database where it is none."""
    from edge_store.backup import check_backup, is_backup
    from edge_store.cli.restoring import progress_bar
    from edge_store.verify import verify_file

    if not is_backup(file):
        return verify_file(file, head=head)
    with progress_bar() as on_progress:
        return check_backup(file, head=head, on_progress=on_progress)


def _object(check: "ChainCheck") -> dict[str, object]:
    import msgspec

    return {**msgspec.structs.asdict(check), "newest_digest": check.newest_digest.hex()}


def _lines(check: "ChainCheck", head: bytes | None) -> list[tuple[str, str]]:
    results = f"{check.results}"
    if check.deleted_forget or check.deleted_retention:
        results += (
            f"; deleted: {check.deleted_forget} by forget, {check.deleted_retention} by retention"
        )
    if check.content_deleted:
        results += f"; content of {check.content_deleted} deleted"
    newest = "none yet"
    if check.newest_at is not None:
        newest = f"{time_text(check.newest_at)}, digest {check.newest_digest.hex()}"
    lines = [("commits", str(check.commits)), ("results", results), ("newest", newest)]
    if not check.faults:
        if head is not None:
            lines.append(("head", "is in the chain"))
        return [*lines, ("faults", "none")]
    return [*lines, *(("FAULT", fault) for fault in check.faults)]
