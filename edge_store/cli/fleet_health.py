"""``edge-store fleet health``: what is wrong with which box."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.output import json_line, write_rows
from edge_store.cli.values import SPAN, WRITTEN_FILE, Finite, group_option

if TYPE_CHECKING:
    from edge_store.alerts.room import TargetState
    from edge_store.config import AlertsSection
    from edge_store.fleet.find import Place
    from edge_store.fleet.health.findings import Bounds, BoxHealth
    from edge_store.fleet.health.summary import Summary, Textfile
    from edge_store.fleet.health.sweep import Look
    from edge_store.fleet.registry import Registry

__all__ = ["health", "places_asked"]


CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def bound_options(command: CommandT) -> CommandT:
    """From where on something is wrong."""
    for name, kind, default, text in reversed(
        (
            ("--late-after", SPAN, "11min", "Without a sign: two heads were missed."),
            ("--dead-after", SPAN, "1d", "Without a sign."),
            ("--copy-after", SPAN, "1d", "What is replicated is not in the copy."),
            ("--drill-after", SPAN, "8d", "No restore drill has passed; 0s: never mind."),
            ("--gaps-since", SPAN, "7d", "Older boots' requests without a row are history."),
            ("--disk-min", Finite(0, 100), 10.0, "Percent of a box's disk that must be free."),
            ("--clock-max", SPAN, "60s", "A box's clock and the store's may differ so far."),
            ("--version-min", str, None, "Older versions of edge-store are wrong."),
        )
    ):
        command = click.option(
            name, type=kind, default=default, show_default=default is not None, help=text
        )(command)
    return command


@click.command()
@click.option(
    "--from", "urls", multiple=True,
    help="Where boxes replicate to: a URL or a folder; again for another one. Else the stores of "
    "fleet.toml.",
)  # fmt: skip
@click.option(
    "--in", "folder", help="The fleet's folder: what `fleet pull` filled, to look at, too.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip
@group_option
@bound_options
@click.option(
    "--all", "is_all", is_flag=True, help="In the table, show the boxes that are well, too."
)
@click.option(
    "--json/--table", "as_json", default=None,
    help="A JSON line for each box, and a summary: the default when piped. Or a table of what is "
    "wrong: the default on a terminal.",
)  # fmt: skip
@click.option(
    "--textfile", type=WRITTEN_FILE,
    help="Write Prometheus' text format there, for node_exporter.",
)  # fmt: skip
@click.option("--alarms", is_flag=True, help="Tell people what is new, as a box does; needs --in.")
def health(  # noqa: PLR0913  (one parameter per option)
    *,
    urls: tuple[str, ...],
    folder: Path | None,
    group: dict[str, str],
    is_all: bool,
    as_json: bool | None,
    textfile: Path | None,
    alarms: bool,
    **bounds: float | str | None,
) -> None:
    """Say what is wrong with which box: by its head in the store, and by its copy in the folder.

    One LIST for each store, and a GET for each head that has changed since the last look. Findings:
    duplicate, tampered, head_unreadable, head_gone, replica_gone, pull_failed, pull_hindered, dead,
    late, drill_failed, drill_old, incomplete, disk_low, clock_off, outdated, copy_old,
    copy_unreadable; and store_away, a store that does not answer. Without --in there are those of
    heads alone.

    Exits 0 when all is well, 1 when something is wrong or could not be found out, 2 when an option
    is wrong, 78 when a setting is.

    \b
    Example:
      edge-store fleet health --from s3://edge/fleet?endpoint=https://host --in fleet
      edge-store fleet health --in fleet --alarms --textfile /var/lib/node_exporter/fleet.prom
    """
    from edge_store.clock import now_ms
    from edge_store.fleet.health.sweep import Look
    from edge_store.fleet.registry import Registry, load_registry

    if alarms and folder is None:
        raise click.UsageError("--alarms remembers in the fleet's folder: add --in")
    registry = load_registry(folder) if folder is not None else Registry()
    alerts = registry.alerts.section if alarms else None
    look = Look(
        places=places_asked(urls, registry),
        folder=folder and folder.absolute(),
        bounds=_bounds(bounds),
        now_ms=now_ms(),
        chooses=lambda device_id: registry.is_labelled(device_id, group),
        is_telling=alarms,
    )
    if as_json is None:
        as_json = not sys.stdout.isatty()
    summary = asyncio.run(_looked(look, alerts, textfile, is_all=is_all, as_json=as_json))
    if not summary.ok:
        sys.exit(1)


def places_asked(urls: tuple[str, ...], registry: "Registry") -> "list[Place]":
    """Those of --from, else the stores of the registry."""
    from edge_store.fleet.find import Place, places_of
    from edge_store.replica.location import parse_location

    if not urls and not registry.stores:
        raise click.UsageError(
            "no store to look at: give --from, or --in a folder whose fleet.toml names stores"
        )
    if not urls:
        return places_of(registry)
    return [Place(location=parse_location(url, key="--from")) for url in urls]


def _bounds(given: "dict[str, float | str | None]") -> "Bounds":
    from edge_store.fleet.health.findings import Bounds

    def seconds(name: str) -> float:
        value = given[name]
        assert isinstance(value, float)
        return value

    version = given["version_min"]
    return Bounds(
        late_after_s=seconds("late_after"),
        dead_after_s=seconds("dead_after"),
        copy_after_s=seconds("copy_after"),
        drill_after_s=seconds("drill_after"),
        gaps_since_s=seconds("gaps_since"),
        disk_free_min=seconds("disk_min") / 100,
        clock_off_max_s=seconds("clock_max"),
        version_min=None if version is None else str(version),
    )


async def _looked(
    look: "Look",
    alerts: "AlertsSection | None",
    textfile: Path | None,
    *,
    is_all: bool,
    as_json: bool,
) -> "Summary":
    """Look, show each box, and whatever else is to be done with what is found."""
    from edge_store.fleet.health.alarms import FleetAlarms, urls_of
    from edge_store.fleet.health.known import remembering
    from edge_store.fleet.health.summary import Counts, Textfile
    from edge_store.fleet.health.sweep import Sweep

    told = urls_of(alerts) if alerts is not None else ()
    counts, found = Counts(look.now_ms), FleetAlarms()
    written = Textfile() if textfile is not None else None
    shown: list[tuple[str | int | None, ...]] = []
    with remembering(look.folder) as memory:
        sweep = Sweep(look, memory)
        async for swept in sweep.boxes():
            counts.add(swept)
            found.add(swept)
            if written is not None:
                written.add(swept.box)
            if as_json:
                click.echo(json_line(swept.box, sys.stdout))
            elif is_all or not swept.box.ok:
                shown.extend(_rows(swept.box))
        summary = counts.summary(sweep.unlisted)
        if alerts is not None and look.folder is not None:
            found.add_away(sweep.unlisted)
            sent = found.tell(told, alerts, look.folder, memory.others_told)
            await _tell(sent)
    if written is not None and textfile is not None:
        _write(written, textfile, summary)
    if as_json:
        click.echo(json_line({"summary": summary}, sys.stdout))
    else:
        _show(shown, summary)
    return summary


async def _tell(sent: "Awaitable[tuple[TargetState, ...]]") -> None:
    for target in await sent:
        if target.failure is not None:
            click.echo(
                f"edge-store: {target.label} was not reached, {target.waiting} wait for the next "
                f"time: {target.failure}",
                err=True,
            )


def _write(written: "Textfile", path: Path, summary: "Summary") -> None:
    try:
        written.write(path, summary)
    except OSError as exc:
        click.echo(f"edge-store: {path} cannot be written: {exc.strerror}", err=True)
        sys.exit(1)


def _rows(box: "BoxHealth") -> list[tuple[str | int | None, ...]]:
    """A line for each finding, or one that says that it is well."""
    state = box.state.value if box.state else None
    said = [(each.name, each.message) for each in box.findings] or [("", box.message)]
    return [
        (box.device_id, state, name, message, box.seq, box.results_behind, box.version)
        for name, message in said
    ]


def _show(rows: list[tuple[str | int | None, ...]], summary: "Summary") -> None:
    from edge_store.query import QueryResult

    columns = ("device_id", "state", "finding", "message", "seq", "results_behind", "version")
    if rows:
        write_rows(QueryResult(columns=columns, rows=rows, is_cut=False), "table", sys.stdout)
    wrong = "".join(f", {count} {name}" for name, count in summary.findings.items())
    click.echo(f"{summary.boxes - summary.wrong} of {summary.boxes} boxes are well{wrong}")
    versions = ", ".join(f"{count} run {name}" for name, count in summary.versions.items())
    for each in summary.unlisted:
        click.echo(f"edge-store: {each.store} was not looked at: {each.error}", err=True)
    click.echo(f"{summary.results} results in replicas; {versions or 'no versions are known'}")
