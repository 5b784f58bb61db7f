"""Carries what a box has forgotten out in the older copies that are kept beside its newest one, and
in the search indexes beside copies.
"""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from edge_store.errors import StoreError
from edge_store.fleet.relations import open_compatible
from edge_store.ids import DeviceId
from edge_store.replica.extent import DEVICE_ID
from edge_store.schema import SCHEMA_VERSION, migrate
from edge_store.search.file import drop_index, index_of_copy, is_index
from edge_store.sql import sql
from edge_store.sqlite import Connection, open_copy

__all__ = ["all_older_copies", "forget_in_all", "forget_in_index", "older_copies"]


def forget_in_all(newest: Path, those: Iterable[Path]) -> tuple[int, tuple[Path, ...]]:
    """``forget_in`` each older copy, and in the index of ``newest`` where that is one of ``those``:
    how many results, and what could not be written.
    """
    count, failed = 0, []
    for each in those:
        try:
            if is_index(each):
                forget_in_index(newest)
            else:
                count += forget_in(each, newest)
        except StoreError:  # an older copy may be damaged: it is kept for what can be saved of it
            if each.exists():  # else it went to make room
                failed.append(each)
    return count, tuple(failed)


def forget_in_index(newest: Path) -> None:
    """The search index beside it, if there is one that has what it says is forgotten."""
    if index_of_copy(newest).exists():
        from edge_store.search.beside_copies import drop_forgotten  # noqa: PLC0415  (as below)

        drop_forgotten(newest)


def older_copies(path: Path) -> list[Path]:
    """``<device id>.<time>.db`` beside ``<device id>.db``. Reads the whole folder."""
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    return sorted(each for each in found if not is_index(each))


def all_older_copies(folder: Path) -> dict[DeviceId, list[Path]]:
    """Those of every box that has any, in the order of their times."""
    found: dict[DeviceId, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.*.db")):
        device_id = path.name.partition(".")[0]
        if DEVICE_ID.fullmatch(device_id) and not is_index(path):
            found[DeviceId(device_id)].append(path)
    return dict(found)


def forget_in(older: Path, newest: Path) -> int:
    """Delete in ``older`` what ``newest`` says is to be forgotten, and the index beside it that has
    its words; how many results that were.

    Raises:
        StoreError: one of them cannot be read, or ``older`` not be written.
    """
    # most pulls have nothing to forget, and the recorder takes a tenth of their start
    from edge_store.forget.carry import forget_everywhere  # noqa: PLC0415
    from edge_store.recorder.transactions import in_transaction  # noqa: PLC0415

    with open_compatible(newest) as reader:
        names = [name for (name,) in reader.execute(sql("select_forgotten_ids"))]
    with closing(open_copy(older)) as connection:
        if (
            names
            and connection.execute(sql("select_schema_version")).fetchone()[0] < SCHEMA_VERSION
        ):
            migrate(connection)  # it is no replica's any more
        connection.execute("PRAGMA secure_delete = ON")

        def forgotten(connection: Connection) -> int:
            count = forget_everywhere(connection, names)
            if count:  # before the COMMIT: the next pull would find nothing to do here
                drop_index(index_of_copy(older))
            return count

        return in_transaction(connection, forgotten)
