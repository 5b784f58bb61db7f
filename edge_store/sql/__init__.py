"""Hand-written SQL as named blocks: ``-- name: block`` opens one, the next name or the end closes
it. Those beside this module are for a box's database. Those in ``copies`` are for the union of many
(fleet/query.py), those in ``lake`` for DuckDB and the views of fleet/lake/ask.py,
those in ``postgres`` for the sink of that kind.
"""

import re
from functools import cache
from importlib.resources import files

__all__ = ["blocks", "sql", "sql_of", "sql_of_rows"]

NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def blocks(folder: str = ".") -> dict[str, str]:
    """Every named block of every ``.sql`` file in ``folder``, beside this module."""
    found: dict[str, str] = {}
    for file in files(__package__).joinpath(folder).iterdir():
        if file.name.endswith(".sql"):
            _head, *parts = NAME.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                assert name not in found, f"two blocks are named {name}"
                found[name] = text.strip()
    return found


def sql(name: str) -> str:
    """The block of that name. Raises ``KeyError`` when there is none."""
    return blocks()[name]


def sql_of(folder: str, name: str) -> str:
    """The block of that name in such a folder."""
    return blocks(folder)[name]


@cache
def sql_of_rows(name: str, rows: int, places: tuple[int, ...]) -> str:
    """The INSERT of that name, for so many rows in one statement. Of the columns at ``places`` each
    row has its own value; those of the others, which come first, are bound once.
    """
    into, names, _values = re.split("[()]", sql(name), maxsplit=2)
    columns = names.split(",")
    alike = [column for n, column in enumerate(columns) if n not in places]
    values = [f"?{n}" for n in range(1, len(alike) + 1)] + ["?"] * len(places)
    row = f"({', '.join(values)})"
    order = ",".join(alike + [columns[n] for n in places])
    return f"{into}({order}) VALUES {', '.join([row] * rows)}"
