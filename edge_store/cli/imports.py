"""``edge-store import``: history from elsewhere as results of this box."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.export import progress_bar
from edge_store.cli.interrupt import interruptible

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.imports.batches import Counts
    from edge_store.imports.sourced import Source
    from edge_store.recorder.intake import Take, Taken
    from edge_store.result import Result

__all__ = ["import_"]

FROM = ("jsonl", "llm", "litellm", "postgres")


@click.command(name="import")
@click.argument("source", metavar="FILE|URL")
@click.option(
    "--from", "kind", type=click.Choice(FROM), default="jsonl", show_default=True,
    help="What it is: jsonl as `export` writes it; llm's logs.db; LiteLLM's spend logs; a table in "
    "PostgreSQL.",
)  # fmt: skip
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--table", help="Of a URL. [default: sglang_inference_results, LiteLLM_SpendLogs]")
@click.option("--tenant", help="Whose results they become, where the source does not say.")
@click.option(
    "--faults-max", type=click.IntRange(min=0), default=1000, show_default=True,
    help="End after more malformed rows than that.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Read, count, and write nothing.")
def import_(  # noqa: PLR0913  (one parameter per option)
    source: str,
    kind: str,
    config: str | None,
    table: str | None,
    tenant: str | None,
    faults_max: int,
    *,
    dry_run: bool,
) -> None:
    """Take results from elsewhere, with the times of then. What is here already, or was deleted
    here, is not taken again: the command can be given twice, and after a kill.

    It works while the daemon runs, and while it is stopped. A row that is malformed is told with
    its number, and skipped; the exit code is 1 then. Their engine begins with `import:`.

    \b
    Example:
      edge-store import all.jsonl
      edge-store import --from llm "$(llm logs path)" --dry-run
      edge-store import --from litellm spend.csv
      edge-store import --from postgres postgresql://me@db/pipeline --tenant old
    """
    from importlib import import_module

    from edge_store.config import load
    from edge_store.imports.batches import Counts

    settings = load(config).config
    opened: Source = import_module(f"edge_store.imports.{kind}").open_source(source, table)

    def work(take: "Callable[[Take], Taken]") -> None:
        counts = Counts()
        try:
            with interruptible():
                _taken(settings, opened, take, tenant, faults_max, counts)
        except BaseException as exc:
            _tell_cut(counts, dry_run=dry_run, goes_on=isinstance(exc, KeyboardInterrupt))
            raise
        _tell(counts, opened.unit, dry_run=dry_run)

    try:
        if dry_run:
            _only_looked_at(settings, work)
        else:
            _taking(settings, kind, work)
    finally:
        opened.close()


def _taken(
    settings: "Config",
    opened: "Source",
    take: "Callable[[Take], Taken]",
    tenant: str | None,
    faults_max: int,
    counts: "Counts",
) -> None:
    from edge_store.imports.batches import Importing

    with _redacting(settings) as redacted, progress_bar("importing", opened.total) as progress:
        importing = Importing(
            take, redacted, tenant=tenant, faults_max=faults_max,
            said=lambda text: click.echo(f"edge-store: {text}", err=True), counts=counts,
        )  # fmt: skip
        importing.run(opened, progress)


def _tell_cut(counts: "Counts", *, dry_run: bool, goes_on: bool) -> None:
    """What came of an import that does not go on; why not is said behind it."""
    from edge_store.cli.output import write_json

    with suppress(OSError):  # which is told at the end, behind what ended the import
        write_json({**counts.shown, "dry_run": dry_run, "complete": False}, sys.stdout)
    hint = "nothing was written (--dry-run)"
    if not dry_run:
        then = "the command given again goes on, and takes nothing twice"
        hint = f"what was taken is in{f'; {then}' if goes_on else ''}"
    click.echo(f"edge-store: cut: {counts.said}", err=True)
    click.echo(f"  {hint}", err=True)


def _tell(counts: "Counts", unit: str, *, dry_run: bool) -> None:
    from edge_store.cli.output import write_json
    from edge_store.errors import ImportFailed
    from edge_store.imports.batches import TOLD_MAX

    write_json({**counts.shown, "dry_run": dry_run, "complete": True}, sys.stdout)
    if not_taken := counts.faults + counts.refused:
        what = f"{not_taken} {unit}s were" if not_taken > 1 else f"1 {unit} was"
        which = "named above" if not_taken <= TOLD_MAX else f"the first {TOLD_MAX} are named above"
        others = "nothing was written (--dry-run)" if dry_run else "the others are in"
        raise ImportFailed(
            f"{what} not taken: {which}",
            hint=f"{others}; put right what is named and give the command again",
        )


def _taking(
    settings: "Config", kind: str, work: "Callable[[Callable[[Take], Taken]], None]"
) -> None:
    """By the daemon if it runs, else under the database's lock; that ends the process."""
    import msgspec

    from edge_store.cli.change import alone, ask
    from edge_store.errors import StoreError
    from edge_store.recorder.intake import Take, Taken

    database = Path(settings.store.path)

    def asked(given: Take) -> Any:
        return ask(database, "POST", "/imports", msgspec.json.encode(given))

    if asked(Take(results=())) is not None:

        def take(given: Take) -> Taken:
            answer = asked(given)
            if answer is None:
                raise StoreError("the daemon has stopped meanwhile", hint="begin again")
            return msgspec.convert(answer, Taken)

        work(take)
        return
    alone(settings, lambda connection: _by_itself(settings, kind, connection, work))


def _by_itself(
    settings: "Config",
    kind: str,
    connection: Any,
    work: "Callable[[Callable[[Take], Taken]], None]",
) -> None:
    from edge_store.recorder.disk import Disk
    from edge_store.recorder.intake import BootOfItsOwn
    from edge_store.wal import checkpoint, wal_bytes

    database = Path(settings.store.path)
    disk = Disk(database, settings.store.disk_reserve_bytes)
    boot = BootOfItsOwn(connection, disk, kind)

    def take(given: "Take") -> "Taken":
        taken = boot.take(given)
        if not settings.replica.enabled and wal_bytes(database) > settings.store.wal_bytes_max:
            checkpoint(connection)
        return taken

    try:
        work(take)
    finally:
        boot.end()


def _only_looked_at(settings: "Config", work: "Callable[[Callable[[Take], Taken]], None]") -> None:
    """What would be taken, by a reader."""
    import msgspec

    from edge_store.recorder.intake import sort_out
    from edge_store.sqlite import open_reader, translated

    connection = open_reader(Path(settings.store.path))

    def look(given: "Take") -> "Taken":
        with translated("what is here cannot be read"):
            fresh, taken = sort_out(connection, given.results)
        return msgspec.structs.replace(taken, taken=len(fresh))

    try:
        work(look)
    finally:
        connection.close()


@contextmanager
def _redacting(settings: "Config") -> "Iterator[Callable[[Result], Result]]":
    """The rules of ``[privacy]``, applied as to what this box records."""
    import asyncio

    from edge_store.jsonrepair import JsonWorkers
    from edge_store.recorder.redacting import Redacting

    workers = JsonWorkers(settings.repair)
    redacting = Redacting(settings.privacy, workers)
    if not redacting.is_on:
        yield lambda result: result
        return
    with asyncio.Runner() as runner:
        runner.run(workers.__aenter__())
        try:
            yield lambda result: runner.run(redacting.written(result))
        finally:
            runner.run(workers.__aexit__(None, None, None))
