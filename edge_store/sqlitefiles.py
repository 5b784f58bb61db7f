"""Which files are SQLite's: no command writes its own over them, however they are called."""

import sys
from pathlib import Path

from edge_store.errors import InvalidRequest

__all__ = ["PARTS", "require_no_database", "require_no_part"]

PARTS = ("-wal", "-shm", "-journal")
MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat2.html#the_database_header
# https://www.sqlite.org/walformat.html: a WAL, by the order of bytes of its sums; its index, by the
# version, 3007000, in this machine's order. https://www.sqlite.org/fileformat2.html: a journal
PART_MAGICS = (
    b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83", (3_007_000).to_bytes(4, sys.byteorder) + bytes(4),
    b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7",
)  # fmt: skip


def require_no_database(path: Path) -> None:
    """For a file that is written over. It need not be there.

    Raises:
        InvalidRequest: it is a database of SQLite, or belongs to one.
    """
    if _begins_as_a_database(path):
        raise InvalidRequest(
            f"{path} is a database of SQLite, and would be written over",
            hint="name another file; where nothing needs that one, remove it",
        )
    require_no_part(path)


def require_no_part(path: Path) -> None:
    """For a file that is made, or written over. It need not be there.

    Raises:
        InvalidRequest: it belongs to a database: by what is in it, however it is called; or by its
            name, as an empty one, or one that is not there, becomes part of the database beside it.
    """
    place = path.resolve()
    databases = [
        place.with_name(place.name.removesuffix(end))
        for end in PARTS
        if place.name.endswith(end) and place.name != end
    ]
    is_part = any(_begins_with(path, magic) for magic in PART_MAGICS)
    if is_part or any(map(_begins_as_a_database, databases)):
        raise InvalidRequest(
            f"{path} belongs to a database of SQLite, which would be damaged",
            hint="name another file",
        )


def _begins_as_a_database(path: Path) -> bool:
    return _begins_with(path, MAGIC)


def _begins_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
