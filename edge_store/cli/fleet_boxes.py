"""``edge-store fleet ls``, ``show`` and ``label``: what a centre knows of its boxes."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_store.cli.output import (
    bytes_text,
    chosen_format,
    output_options,
    time_text,
    write_json,
    write_rows,
)
from edge_store.cli.values import LABEL_NAME, group_option

if TYPE_CHECKING:
    from edge_store.fleet.boxes import KnownBox
    from edge_store.ids import DeviceId

__all__ = ["label", "ls", "show"]

in_option = click.option(
    "--in", "folder", required=True, help="The folder of the copies, and of fleet.toml.",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)  # fmt: skip


@click.command()
@in_option
@group_option
@output_options
def ls(*, folder: Path, group: dict[str, str], fmt: str | None) -> None:
    """List the boxes that have a copy here, or labels, with what the last pulls told of them.

    No store is asked: `edge-store fleet heads` does. `renewed_at`: when the copy last changed here;
    `restored_at`: when all of it was last made and checked by a restore.

    \b
    Example:
      edge-store fleet ls --in fleet --group site=berlin
    """
    from edge_store.fleet.boxes import known_boxes
    from edge_store.fleet.registry import load_registry
    from edge_store.query import QueryResult

    boxes = [_flat(box) for box in known_boxes(folder, load_registry(folder), group)]
    columns = tuple(_flat_names())
    chosen = chosen_format(fmt, sys.stdout)
    if chosen not in ("json", "nl"):
        boxes = [{**box, "labels": _shown(box["labels"])} for box in boxes]
    rows = [tuple(box[name] for name in columns) for box in boxes]
    write_rows(QueryResult(columns=columns, rows=rows, is_cut=False), chosen, sys.stdout)


def _flat_names() -> tuple[str, ...]:
    return (
        "device_id", "labels", "store", "results", "newest_at", "bytes", "older", "renewed_at",
        "restored_at",
    )  # fmt: skip


def _flat(box: "KnownBox") -> dict[str, Any]:
    standing = box.standing
    return {
        "device_id": box.device_id,
        "labels": dict(box.labels),
        "store": box.store or (standing.location if standing else None),
        "results": standing.results if standing else None,
        "newest_at": _moment(standing.newest_at if standing else None),
        "bytes": box.bytes,
        "older": len(box.older),
        "renewed_at": _moment(standing.renewed_at if standing else None),
        "restored_at": _moment(standing.restored_at if standing else None),
    }


def _device_id(word: str) -> "DeviceId":
    """As files are named after it, a path or a pattern is none."""
    from edge_store.ids import DeviceId
    from edge_store.replica.extent import DEVICE_ID

    if not DEVICE_ID.fullmatch(word):
        raise click.UsageError(f"{word!r} is no device id: lower-case letters, digits and hyphens")
    return DeviceId(word)


def _shown(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())


def _moment(milliseconds: int | None) -> str | None:
    return time_text(milliseconds) if milliseconds else None


@click.command()
@click.argument("device_id", metavar="BOX")
@in_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(*, device_id: str, folder: Path, as_json: bool) -> None:
    """Show all that is known here of one box, its older copies included.

    \b
    Example:
      edge-store fleet show box-7 --in fleet
    """
    from edge_store.fleet.boxes import known_box, look_inside
    from edge_store.fleet.registry import load_registry

    box = known_box(folder, load_registry(folder), _device_id(device_id))
    inside = look_inside(box.path) if box.path else None
    shown: dict[str, Any] = {
        **_flat(box),
        "location": box.standing.location if box.standing else None,
        "txid": f"{box.standing.txid:016x}" if box.standing else None,
        "path": str(box.path) if box.path else None,
        "schema_version": inside.schema_version if inside else None,
        "timeline": inside.timeline if inside else None,
        "seq": inside.seq if inside else None,
        "older": [{"path": str(path), "bytes": path.stat().st_size} for path in box.older],
    }
    if as_json:
        write_json(shown, sys.stdout)
        return
    shown["labels"] = _shown(box.labels)
    shown["bytes"] = bytes_text(box.bytes)
    older = [f"{each['path']}, {bytes_text(each['bytes'])}" for each in shown.pop("older")]
    for name, value in (*shown.items(), *(("older", each) for each in older)):
        if value not in (None, ""):
            click.echo(f"{name:<16}{value}")


@click.command()
@click.argument("words", metavar="BOX... NAME=VALUE...", nargs=-1, required=True)
@in_option
def label(*, words: tuple[str, ...], folder: Path) -> None:
    """Label boxes in fleet.toml. NAME= takes a label away.

    The rest of the file stays as it is. A box may be labelled before it is there.

    \b
    Example:
      edge-store fleet label box-1 box-2 site=berlin rack= --in fleet
    """
    from edge_store.fleet.boxes import known_box
    from edge_store.fleet.labels import label_boxes

    boxes = [_device_id(word) for word in words if "=" not in word]
    pairs = [word.partition("=") for word in words if "=" in word]
    if not boxes or not pairs:
        raise click.UsageError("name boxes and labels, as in: box-1 site=berlin")
    for name, _, _value in pairs:
        if not LABEL_NAME.fullmatch(name):
            raise click.UsageError(f"{name!r} is no name of a label: lower-case letters, digits")
    registry = label_boxes(folder, boxes, {name: value or None for name, _, value in pairs})
    for device_id in boxes:
        if device_id not in registry.labels:
            click.echo(f"{device_id}: no labels")
            continue
        box = known_box(folder, registry, device_id)
        there = "" if box.path else "  (no copy of it is here yet)"
        click.echo(f"{device_id}: {_shown(box.labels)}{there}")
