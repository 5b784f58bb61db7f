"""What is known of each box without asking its store: its labels, its copy, older copies beside."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from edge_store.errors import NotFound
from edge_store.fleet.copies import Standing, copy_path, last_standing
from edge_store.fleet.forget import all_older_copies, older_copies
from edge_store.fleet.registry import Registry
from edge_store.ids import DeviceId
from edge_store.replica.extent import DEVICE_ID
from edge_store.result import Record
from edge_store.sql import sql
from edge_store.sqlite import open_reader, translated

__all__ = ["Inside", "KnownBox", "known_box", "known_boxes", "look_inside"]


class KnownBox(Record, frozen=True, kw_only=True):
    """A box that has a copy here, or labels. ``standing`` is what the last pull that changed its
    copy wrote down. ``store``: by its name, where the registry has the place.
    """

    device_id: DeviceId
    labels: Mapping[str, str]
    store: str | None
    path: Path | None
    bytes: int
    older: tuple[Path, ...]
    standing: Standing | None


class Inside(Record, frozen=True, kw_only=True):
    """What only the copy itself says."""

    schema_version: int
    timeline: str | None
    seq: int


def known_boxes(
    folder: Path, registry: Registry, group: Mapping[str, str] | None = None
) -> list[KnownBox]:
    """All of them, or those of a group, in order of name. No copy is opened."""
    copies = {DeviceId(path.stem) for path in folder.glob("*.db") if DEVICE_ID.fullmatch(path.stem)}
    places, older = _places(registry), all_older_copies(folder)
    return [
        _known(folder, registry, places, device_id, older.get(device_id, []))
        for device_id in sorted(copies | set(registry.labels))
        if registry.is_labelled(device_id, group or {})
    ]


def known_box(folder: Path, registry: Registry, device_id: DeviceId) -> KnownBox:
    """One of them. Raises ``NotFound``: nothing is known of it."""
    older = older_copies(copy_path(folder, device_id))
    box = _known(folder, registry, _places(registry), device_id, older)
    if box.path is None and not box.labels:
        raise NotFound(
            f"{folder} has no copy of {device_id}, and fleet.toml no labels",
            hint="`edge-store fleet ls` shows the boxes",
        )
    return box


def _places(registry: Registry) -> dict[str, str]:
    """The names of the stores, by what a standing calls them."""
    return {str(store.location()): store.name for store in registry.stores}


def _known(
    folder: Path,
    registry: Registry,
    places: Mapping[str, str],
    device_id: DeviceId,
    older: Sequence[Path],
) -> KnownBox:
    path = copy_path(folder, device_id)
    standing = last_standing(path)
    return KnownBox(
        device_id=device_id,
        labels=registry.labels.get(device_id, {}),
        store=places.get(standing.location) if standing else None,
        path=path if path.exists() else None,
        bytes=path.stat().st_size if path.exists() else 0,
        older=tuple(older),
        standing=standing,
    )


def look_inside(copy: Path) -> Inside:
    """Open a copy. Raises ``StoreError``: it cannot be read."""
    with closing(open_reader(copy)) as connection, translated(f"{copy} cannot be read"):
        (version,) = connection.execute(sql("select_schema_version")).fetchone()
        timeline, seq = connection.execute(sql("select_copy_extent")).fetchone()
    return Inside(schema_version=version, timeline=timeline, seq=seq)
