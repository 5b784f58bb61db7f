"""``edge-store retention``: what is deleted by age or size, and what may never be."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.interrupt import interruptible
from edge_store.cli.output import chosen_format, output_options, time_text, write_json, write_rows
from edge_store.cli.selecting import require_not_empty, selection_of, selection_options

if TYPE_CHECKING:
    from edge_store.config import Config
    from edge_store.retention.plan import Plan
    from edge_store.sqlite import Connection

__all__ = ["retention"]

PLAN_COLUMNS = (
    "rule", "what", "rows", "bytes", "oldest", "newest", "pinned", "held", "needed", "unset",
)  # fmt: skip
HOLD_COLUMNS = ("name", "since", "ended", "results", "selection", "note")

config_option = click.option("--config", help="The box's edge-store.toml, or its folder.")


@click.group()
def retention() -> None:
    """Delete what is older or more than [retention] allows; hold what may never be deleted.

    Nothing is deleted unless a setting says so. See docs/retention.md.

    \b
    Example:
      edge-store retention plan
      edge-store retention hold add case-17 --tenant clinic --since 2026-01-01
      edge-store retention apply --yes
    """


@retention.command()
@config_option
@output_options
def plan(config: str | None, fmt: str | None) -> None:
    """Show what would go now, by rule, and what stays because it is pinned or held.

    Bytes are those of the values, and the rules of size are reckoned with them.

    \b
    Example:
      edge-store retention plan
      edge-store retention plan --json
    """
    from edge_store.config import load
    from edge_store.query import QueryResult

    settings = load(config).config
    made = _plan(settings)
    rows = [tuple(getattr(step, name) for name in PLAN_COLUMNS) for step in made.steps]
    result = QueryResult(columns=PLAN_COLUMNS, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)
    for line in _said(settings, made):
        click.echo(f"edge-store: {line}", err=True)


def _plan(settings: "Config") -> "Plan":
    from contextlib import closing

    from edge_store.retention.plan import make_plan
    from edge_store.sqlite import open_reader

    path = Path(settings.store.path)
    upto, waits_for = _upto(settings)
    with closing(open_reader(path)) as connection, interruptible():
        upto, waits_for = (0, away) if (away := _away(settings, connection)) else (upto, waits_for)
        return make_plan(connection, path, settings.retention, upto, waits_for)


def _away(settings: "Config", connection: "Connection") -> str | None:
    """That the archive's folder is not there, though it has files."""
    from edge_store.archive.ledger import read_archives
    from edge_store.archive.store import ArchiveStore

    if not settings.retention.archive or not any(each.rows for each in read_archives(connection)):
        return None
    store = ArchiveStore(settings.retention.archive)
    if not store.is_missing:
        return None
    return f"the archive {store} is not there: is its disk mounted? nothing may go until it is"


def _said(settings: "Config", made: "Plan") -> list[str]:
    lines = []
    if not settings.retention.is_on:
        lines.append("nothing is ever deleted by itself: [retention] sets no bound")
    elif made.archive:
        lines.append(f"all of it is put into {made.archive} first, and read back")
    if made.waits_for:
        lines.append(made.waits_for)
    if any(step.unset for step in made.steps):
        lines.append(
            "unset: results that are old by their own time alone: they were made before the clock "
            "was set, and count from when it was"
        )
    lines += _floor_said(settings)
    lines.append(
        f"the database holds {made.used_bytes} bytes, and {made.free_bytes_inside} more are free "
        "inside it: they are used before it grows; `edge-store retention compact` gives them back"
    )
    return lines


def _floor_said(settings: "Config") -> list[str]:
    """That the floor of the disk is not met, and what to do, if so."""
    from contextlib import closing

    from edge_store.retention.choice import measure
    from edge_store.retention.floor import find_unmet
    from edge_store.sqlite import open_reader

    path = Path(settings.store.path)
    with closing(open_reader(path)) as connection:
        unmet = find_unmet(settings, measure(connection, path))
    if unmet is None:
        return []
    advice = (
        "what helps: room on that disk, a lower floor, or retention.keep_bytes and then "
        "`edge-store retention compact`"
    )
    return [str(unmet), advice]


def _upto(settings: "Config") -> tuple[int, str | None]:
    """Up to which result may go, and what the others wait for."""
    import msgspec

    from edge_store.replica.status import ReplicaStatus
    from edge_store.retention.choice import SEQ_MAX
    from edge_store.status import ask_daemon, known_device_id

    if settings.retention.archive or not settings.replica.enabled:
        return SEQ_MAX, None
    daemon, problem = ask_daemon(settings.server, known_device_id(settings))
    if daemon is None:
        return 0, f"what is in the replica only the daemon knows ({problem}): nothing may go"
    try:
        status = msgspec.convert(daemon.get("replica"), ReplicaStatus | None)
    except msgspec.ValidationError:
        return 0, "the daemon is of another version: nothing may go"
    if status is None or status.confirmed is None:
        return 0, "nothing is known to be in the replica yet: nothing may go"
    return status.confirmed.seq, f"only what is in the replica goes: seq {status.confirmed.seq}"


@retention.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def apply(config: str | None, *, yes: bool) -> None:
    """Do now what `plan` shows. The daemon does it by itself every retention.interval_s.

    It works while the daemon runs, which makes the changes, each short. It may be interrupted: the
    next pass goes on. `kept_meanwhile` counts what was pinned, held or changed after it had been
    chosen; what is not chosen, as it is pinned or held, `plan` counts.

    \b
    Example:
      edge-store retention apply
      edge-store retention apply --yes
    """
    from contextlib import suppress

    from edge_store.cli.change import ask, changes
    from edge_store.config import load
    from edge_store.errors import EdgeStoreError
    from edge_store.retention.passes import Pass

    settings = load(config).config
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask: give --yes, or use `plan`")
        made = _plan(settings)
        counts = ", ".join(f"{step.rows} {step.what}s ({step.rule})" for step in made.steps)
        click.confirm(f"Delete {counts or 'nothing'}?", abort=True, err=True)
    upto, waits_for = _upto(settings)

    def carry_out(make: Any) -> None:
        work = Pass(Path(settings.store.path), settings.retention, make)
        with interruptible():
            done = work.run(upto)
        with suppress(EdgeStoreError):  # else it finds out by itself, within the interval
            ask(Path(settings.store.path), "POST", "/retention/pass")
        write_json(done, sys.stdout)
        for line in (*([waits_for] if waits_for else []), *_floor_said(settings)):
            click.echo(f"edge-store: {line}", err=True)

    changes(settings, carry_out)


@retention.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
def compact(config: str | None, *, yes: bool) -> None:
    """Give what is free inside the database back to the disk; while the daemon is stopped.

    The file is written anew, so as much room as it holds is needed meanwhile, and with replication
    all of it is sent once more. Without it the room is used again by new results.

    \b
    Example:
      edge-store retention compact --yes
    """
    from edge_store.cli.change import alone
    from edge_store.config import load
    from edge_store.retention.choice import measure
    from edge_store.retention.compact import compact as rewrite

    settings = load(config).config
    path = Path(settings.store.path)

    def work(connection: Any) -> None:
        before = measure(connection, path)
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("there is no terminal to ask: give --yes")
            click.confirm(f"Write {before.used} bytes anew?", abort=True, err=True)
        rewrite(connection, path)
        after = measure(connection, path)
        write_json({"used_bytes": after.used, "given_back_bytes": before.inside}, sys.stdout)

    alone(settings, work)


@retention.group()
def hold() -> None:
    """Results that nobody may delete until the hold ends: those that its filters choose, those to
    come too.

    \b
    Example:
      edge-store retention hold add audit-2026 --since 2026-01-01 --until 2027-01-01
      edge-store retention hold ls
      edge-store retention hold rm audit-2026
    """


@hold.command("add")
@click.argument("name")
@selection_options()
@click.option("--everything", is_flag=True, help="Without a filter: all there is and will be.")
@click.option("--note", default="", help="Why, for who asks later.")
@config_option
def add(name: str, config: str | None, note: str, *, everything: bool, **given: Any) -> None:
    """Hold the results that these filters choose. It holds at once.

    \b
    Example:
      edge-store retention hold add case-17 --user u-17 --note "court order 4 O 12/26"
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.recorder.holds import AddHold

    require_not_empty(given, "hold", "held")
    selection = selection_of(given)
    if bool(selection.values) == everything:
        raise click.UsageError("give a filter, or --everything: one of them")
    params = AddHold(name=name, selection=selection, note=note)
    change(
        load(config).config, "retention.hold", params,
        said=lambda _number: click.echo(f"{name} holds", err=True),
    )  # fmt: skip


@hold.command("ls")
@click.option("--all", "ended", is_flag=True, help="Those that have ended, too.")
@config_option
@output_options
def ls(config: str | None, fmt: str | None, *, ended: bool) -> None:
    """List the holds, each with how many results it is over now.

    \b
    Example:
      edge-store retention hold ls --all
    """
    from contextlib import closing

    import msgspec

    from edge_store.config import load
    from edge_store.query import QueryResult
    from edge_store.recorder.holds import count_held, read_holds
    from edge_store.sqlite import open_reader

    with closing(open_reader(Path(load(config).config.store.path))) as connection:
        rows = [
            (
                each.name,
                time_text(each.at),
                time_text(each.ended_at) if each.ended_at else None,
                count_held(connection, each),
                msgspec.json.encode(each.selection.values).decode(),
                each.note,
            )
            for each in read_holds(connection, ended=ended)
        ]
    result = QueryResult(columns=HOLD_COLUMNS, rows=rows, is_cut=False)
    write_rows(result, chosen_format(fmt, sys.stdout), sys.stdout)


@hold.command("rm")
@click.argument("name")
@config_option
def rm(name: str, config: str | None) -> None:
    """End a hold. What it was over may go again.

    \b
    Example:
      edge-store retention hold rm case-17
    """
    from edge_store.cli.change import change
    from edge_store.config import load
    from edge_store.recorder.holds import EndHold

    change(
        load(config).config, "retention.unhold", EndHold(name=name),
        said=lambda _number: click.echo(f"{name} has ended", err=True),
    )  # fmt: skip
