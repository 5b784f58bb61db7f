"""``edge-store forget``: delete what belongs to a user, or to results, for good."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import time_text, write_json
from edge_store.cli.selecting import require_not_empty
from edge_store.cli.values import POSITIVE

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.forget.choice import Choice, Line, Who
    from edge_store.forget.lines import Span
    from edge_store.result import Record

__all__ = ["forget", "forget_chosen"]

PAGE_BYTES = 2048
COPIES = "older copies at the centre until the next fleet pull; backups and exports of your own"
SEARCH = (
    "single words: some 5 s with a running daemon that has nothing else to take in, longer where "
    "much is forgotten"
)
WAL_ALONE = "with a running daemon some 10 s, or until no reader is in the way"


@click.command()
@click.option("--config", help="The box's edge-store.toml, or its folder.")
@click.option("--user", metavar="ID", help="Everything whose `user` this is.")
@click.option(
    "--where", metavar="SQL",
    help="All results for which this is true: an expression on the columns of `results` and "
    "`requests`.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Count, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--even-pinned", is_flag=True, help="Results that are pinned, too.")
@click.option("--even-held", is_flag=True, help="Results that are held (`retention hold`), too.")
@click.option(
    "--timeout",
    type=POSITIVE,
    default=600.0,
    show_default=True,
    help="Most seconds for the choice.",
)
def forget(
    config: str | None,
    user: str | None,
    where: str | None,
    timeout: float,
    **flags: bool,
) -> None:
    """Delete results for good, with all that holds their text.

    That is: texts, bodies, repairs, annotations, the other attempts of a batch line, the lines in
    uploaded files and in outputs, what was asked of a response, responses that continue it, and
    conversations with a part in it. Of a user also what is queued or waits. Each leaves a
    tombstone, so that the sums and the chain stay whole, and copies lose it at the next pull. The
    answer says what remains where, and until when; a run that finds nothing more to delete says so
    of what was forgotten before, as by one that was cut. It works while the daemon runs; what is in
    flight meanwhile is found by the next run.

    \b
    Example:
      edge-store forget --user u-17 --dry-run
      edge-store forget --where "json_extract(metadata, '$.ward') = 'b'" --yes
    """
    from edge_store.config import load
    from edge_store.forget.choice import Who

    require_not_empty({"user": user, "where": where}, "delete", "deleted")
    if (user is None) == (where is None):
        raise click.UsageError("give --user or --where: one of them")
    forget_chosen(load(config).config, Who(user, where, timeout), flags)


def forget_chosen(settings: "Config", who: "Who", flags: Mapping[str, bool]) -> None:
    """Count, ask, and forget; ``flags``: ``dry_run``, ``yes``, ``even_pinned`` and ``even_held``.
    May end the process.

    Raises:
        InvalidRequest: what was chosen holds what is pinned, or held.
    """
    from edge_store.cli.change import changes
    from edge_store.clock import now_ms
    from edge_store.errors import InvalidRequest

    with interruptible():
        choice, spans, lines = _choose(settings, who)
    said: dict[str, Any] = _counted(choice, spans)
    if flags["dry_run"]:
        write_json({**said, "dry_run": True}, sys.stdout)
        return
    if not any(said.values()):
        _forgotten_before(settings, said)
        return
    if choice.pinned and not flags["even_pinned"]:
        raise InvalidRequest(
            f"{_some_are(choice.pinned, choice)} pinned: nothing was deleted",
            hint="--even-pinned forgets what is pinned, too",
        )
    if choice.held and not flags["even_held"]:
        raise InvalidRequest(
            f"{_some_are(choice.held, choice)} held: nothing was deleted",
            hint="`edge-store retention hold ls`; --even-held forgets what is held, too",
        )
    if not flags["yes"]:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask: give --yes, or --dry-run")
        click.confirm(f"Forget {_counts_text(said)}?", abort=True, err=True)

    def carry_out(make: Any) -> None:
        made = _changes(choice, spans, lines)
        with (
            interruptible(),
            click.progressbar(
                made, label="forgetting", file=sys.stderr, hidden=not sys.stderr.isatty()
            ) as bar,
        ):
            for name, params in bar:
                make(name, params)
        remains = _remains(settings, now_ms())
        if _has_archive(settings):
            remains["archive"] = _rewritten(settings, make, {*choice.results, *choice.archived})
        write_json({**said, "dry_run": False, "remains": remains}, sys.stdout)

    changes(settings, carry_out)


def _forgotten_before(settings: "Config", said: Mapping[str, Any]) -> None:
    """Nothing is left to delete: maybe as a run before did that, and was cut before it could tell
    what remains, or before the archive's files were written anew. May end the process.
    """
    from contextlib import closing

    from edge_store.cli.change import changes
    from edge_store.sql import sql
    from edge_store.sqlite import open_reader

    with closing(open_reader(Path(settings.store.path))) as connection:
        (at,) = connection.execute(sql("select_last_forgotten_at")).fetchone()
    if at is None:
        write_json({**said, "dry_run": False}, sys.stdout)
        return

    def tell(archive: Mapping[str, str]) -> None:
        remains = {**_remains(settings, at), **archive}
        before = {"last_forgotten_at": time_text(at), "remains": remains}
        write_json({**said, "dry_run": False, **before}, sys.stdout)

    if not _has_archive(settings):
        tell({})
    elif not _is_in_a_file(settings, None):
        tell({"archive": "nothing"})
    else:
        changes(settings, lambda make: tell({"archive": _rewritten(settings, make, None)}))


def _some_are(some: Sequence[str], choice: "Choice") -> str:
    """As 2 of the 9 results chosen, the first of them 0190…, are."""
    of = len(choice.results) + len(choice.archived)
    if of == 1:
        return f"the result {some[0]} is"
    if len(some) == 1:
        return f"1 of the {of} results chosen, {some[0]}, is"
    return f"{len(some)} of the {of} results chosen, the first of them {some[0]}, are"


def _counts_text(counts: Mapping[str, int]) -> str:
    """As 1 result, 2 responses, 1 pinned."""
    return ", ".join(
        f"{number} {what.removesuffix('s') if number == 1 else what}"
        for what, number in counts.items()
        if number
    )


def _choose(settings: "Config", who: "Who") -> "tuple[Choice, list[Span], list[Line]]":
    from edge_store.api.routes import GENERATING
    from edge_store.archive.forgetting import find_archived
    from edge_store.forget.choice import choose, names_of, with_moved
    from edge_store.forget.lines import find_spans
    from edge_store.queue.files import FOLDER
    from edge_store.sqlite import open_reader

    path = Path(settings.store.path)
    names = names_of(who.user, GENERATING) if who.user else None
    connection = open_reader(path)
    try:
        if _has_archive(settings):
            before = choose(connection, who, names)
            away = find_archived(path, settings.retention.archive, who)
            choice = with_moved(choose(connection, who, names, away), before)
        else:
            choice = choose(connection, who, names)
        spans, lines = find_spans(connection, path.with_name(FOLDER), choice.lines, names)
    finally:
        connection.close()
    return choice, spans, lines


def _has_archive(settings: "Config") -> bool:
    """Whether something is in the archive."""
    from contextlib import closing

    from edge_store.archive.ledger import read_archives
    from edge_store.sqlite import open_reader

    with closing(open_reader(Path(settings.store.path))) as connection:
        return any(each.rows or each.stale for each in read_archives(connection))


def _rewritten(settings: "Config", make: Any, seqs: "set[int] | None") -> str:
    """Have the files written anew without what was forgotten; what is to be said of it. ``seqs``:
    of all that was chosen; None where a run before chose it.
    """
    import threading

    from edge_store.archive.aside import Aside
    from edge_store.duty import SMALL
    from edge_store.errors import EdgeStoreError
    from edge_store.retention.passes import Pass

    if not _is_in_a_file(settings, seqs):
        return "nothing"
    aside = Aside(threading.Event(), share=SMALL)  # somebody waits
    work = Pass(Path(settings.store.path), settings.retention, make, aside=aside)
    try:
        count = work.forget()
    except EdgeStoreError as exc:
        return f"pending: {exc}; nothing brings it back, and each pass of retention tries again"
    files = "1 file was" if count == 1 else f"{count} files were"
    return f"nothing: {files} written anew" if count else "nothing"


def _is_in_a_file(settings: "Config", seqs: "set[int] | None") -> bool:
    """Whether a file of the archive has something that was forgotten, or one that is being written
    may have what is forgotten now, or an older one of a pass that was cut is still to go.
    """
    from contextlib import closing

    from edge_store.archive.ledger import expand, forgotten_in, read_archives, stale_in
    from edge_store.sqlite import open_reader

    with closing(open_reader(Path(settings.store.path))) as connection:
        if forgotten_in(connection) or stale_in(connection):
            return True
        begun = [each for each in read_archives(connection) if each.verified_at is None]
    return any(seqs is None or not seqs.isdisjoint(expand(each.seqs)) for each in begun)


def _counted(choice: "Choice", spans: "list[Span]") -> dict[str, int]:
    return {
        "results": len(choice.results),
        "archived": len(choice.archived),
        "following": choice.following,
        "pinned": len(choice.pinned),
        "held": len(choice.held),
        "requests": len(choice.requests),
        "responses": len(choice.responses),
        "conversations": len(choice.conversations),
        "lines": len(spans),
    }


def _changes(
    choice: "Choice", spans: "list[Span]", lines: "list[Line]"
) -> "list[tuple[str, Record]]":
    """The results come last: what is left of a run that was cut is found by them."""
    from edge_store.archive.forgetting import ForgetArchived
    from edge_store.forget.carry import ForgetKept, ForgetResults
    from edge_store.forget.choice import pages
    from edge_store.forget.lines import Overwrite

    made: list[tuple[str, Record]] = [
        ("forget.lines", Overwrite(spans=tuple(page))) for page in pages(spans)
    ]
    made += [("forget.kept", ForgetKept(lines=tuple(page))) for page in pages(lines)]
    ids = choice.requests + choice.responses + choice.conversations
    made += [("forget.kept", ForgetKept(ids=tuple(page))) for page in pages(ids)]
    made += [("archive.forget", ForgetArchived(seqs=tuple(p))) for p in pages(choice.archived)]
    for page in pages(choice.results.items()):
        seqs, names = tuple(seq for seq, _ in page), tuple(name for _, name in page)
        made.append(("forget.results", ForgetResults(seqs=seqs, ids=names)))
    return made


def _remains(config: "Config", at: int) -> dict[str, str]:
    """Where the bytes of what was forgotten by ``at``, in UTC ms, still are, and until when."""
    from edge_store.clock import now_ms
    from edge_store.config import ReplicaMode
    from edge_store.recorder.disk import DRILL_COPY

    remains = {"search": SEARCH}
    if not config.replica.enabled:
        return {"wal": WAL_ALONE, **remains, "copies": COPIES}
    # the snapshot that is newest now is replaced by the next, and kept for the retention
    pace = config.replica.pace
    kept_s = pace.snapshot_interval_s + pace.snapshot_retention_s
    checkpoint = (
        f"once {pace.checkpoint_pages * PAGE_BYTES // 1_000_000} MB more are committed, or with "
        f"the first commit that comes {pace.checkpoint_interval_s / 60:g} min after the one before"
        if config.replica.mode is ReplicaMode.CHILD
        else "as it is configured"
    )
    remains = {
        "database": f"in results.db, read by nothing but a look at its raw bytes, until "
        f"Litestream's next checkpoint: {checkpoint}. A box at rest keeps it until it commits",
        "wal": "until newer commits have written over it after that checkpoint, as in Litestream's "
        "files beside it, for a quarter of an hour at least",
        **remains,
    }
    if any(Path(config.store.path).with_name(name).exists() for name in DRILL_COPY):
        remains["drill_copy"] = "beside the database, until the next `edge-store replica drill`"
    until = at + round(kept_s * 1000)
    if until > now_ms():
        remains["replica"] = f"until {time_text(until)}"
    return {**remains, "copies": COPIES}
