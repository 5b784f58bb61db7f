"""``edge-store replica check``: whether a place can hold replicas."""

import asyncio
import sys

import click

from edge_store.cli.output import write_json

__all__ = ["check"]


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--from", "url", help="Another place: s3://bucket/prefix?…, sftp://user@host/folder…")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of checks.")
def check(config: str | None, url: str | None, *, as_json: bool) -> None:
    """Write, list, read, and delete a small object where the replica goes, and say what is wrong.

    Also looks at the room on a folder's disk, compares the clocks, looks whether the store keeps
    conditions (they stop a second box on one path), and lets Litestream reach it. Nothing of a box
    is touched. Run it with the daemon's keys: in the unit they are its credentials. Exits 1 when a
    check has failed.

    \b
    Example:
      edge-store replica check --config mybox
      edge-store replica check --from s3://edge/fleet?endpoint=https://host --json
    """
    from edge_store.cli.doctor import show
    from edge_store.config import StoreSection, load
    from edge_store.replica.location import parse_location
    from edge_store.result import Check, CheckState

    store = StoreSection()
    if url is not None:
        location = parse_location(url, key="--from")
    else:
        settings = load(config).config
        location, store = parse_location(settings.replica.url), settings.store

    async def run() -> list[Check]:
        from edge_store.replica.check import check_location

        checks = []
        async for each in check_location(location, reserve_bytes=store.disk_reserve_bytes):
            checks.append(each)
            if not as_json:
                show(each)
        return checks

    if not as_json:
        click.echo(str(location))
    checks = asyncio.run(run())
    if as_json:
        write_json(checks, sys.stdout)
    sys.exit(any(each.state is CheckState.FAILED for each in checks))
