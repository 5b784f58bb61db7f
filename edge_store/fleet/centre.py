"""A folder of copies and its lake, if it has one: whom a question about the fleet is put to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_store.errors import NotFound
from edge_store.fleet.query import FleetAnswer, find_copies, query_fleet
from edge_store.fleet.registry import Registry
from edge_store.replica.extent import DEVICE_ID
from edge_store.result import Record
from edge_store.search.file import is_index

__all__ = ["Centre", "saved_query"]

SHOWN = 10  # boxes that are named


class Centre(Record, frozen=True, kw_only=True):
    """``lake_url``: None to ask the copies alone."""

    folder: Path
    lake_url: str | None = None

    def ask(
        self,
        statement: str | Callable[[bool], str],
        params: Mapping[str, Any] | None = None,
        *,
        rows_max: int,
        timeout_s: float,
    ) -> FleetAnswer:
        """Run one statement that only reads: over the lake and what the copies have beyond it, or
        over the copies, where there is no lake yet. A function is called to give it, with whether
        it is the lake's.

        Raises:
            QueryRefused: it does not parse, would do more than read, or takes too long or too much.
            NotFound: there are neither copies nor a lake.
        """
        asked = statement if callable(statement) else lambda _is_lake: statement
        if self.lake_url is not None:
            from edge_store.fleet.lake.ask import ask_lake  # noqa: PLC0415  (an extra of its own)
            from edge_store.fleet.lake.store import Lake  # noqa: PLC0415

            answer = ask_lake(
                Lake(self.lake_url),
                self._all_copies(),
                asked(True),
                params,
                rows_max=rows_max,
                timeout_s=timeout_s,
            )
            if answer is not None:
                return answer
        copies = find_copies(self.folder)
        answer = query_fleet(copies, asked(False), params, rows_max=rows_max, timeout_s=timeout_s)
        left_out = len({*self._all_copies()} - {*copies})
        return msgspec.structs.replace(answer, absent_lake=self.lake_url, left_out=left_out)

    def lake_tables(self) -> frozenset[str]:
        """The tables that the lake has; none where there is no lake yet."""
        if self.lake_url is None:
            return frozenset()
        from edge_store.fleet.lake.store import Lake, watermarks  # noqa: PLC0415

        return frozenset(watermarks(Lake(self.lake_url)).tables)

    def require_known(self, device_id: str) -> None:
        """Refuse a box that nothing here is of.

        Raises:
            NotFound: there is neither a copy of it, nor a row in the lake.
        """
        known = sorted({path.name.partition(".")[0] for path in self._all_copies()})
        if device_id in known or self._is_in_lake(device_id):
            return
        shown = ", ".join(known[:SHOWN]) + (" …" if len(known) > SHOWN else "")
        raise NotFound(
            f"{self.folder} has no box {device_id}" + (", nor has the lake" * bool(self.lake_url)),
            hint=f"it has {shown}" if known else "it has no copy: `fleet stats --by device`",
        )

    def _is_in_lake(self, device_id: str) -> bool:
        if self.lake_url is None:
            return False
        from edge_store.fleet.lake.store import Lake, watermarks  # noqa: PLC0415

        tables = watermarks(Lake(self.lake_url)).transactions.values()
        return any(each.get(f"box/{device_id}") is not None for each in tables)

    def _all_copies(self) -> list[Path]:
        """Those that are kept aside, too."""
        found = (path for path in self.folder.glob("*.db") if not is_index(path))
        return sorted(path for path in found if DEVICE_ID.fullmatch(path.name.partition(".")[0]))


def saved_query(registry: Registry, statement: str) -> str:
    """What ``@name`` stands for in ``fleet.toml``; another statement is what it is.

    Raises:
        NotFound: there is no query of that name.
    """
    if not statement.startswith("@"):
        return statement
    found = registry.queries.get(statement[1:])
    if found is None:
        known = ", ".join(f"@{name}" for name in sorted(registry.queries))
        raise NotFound(
            f"fleet.toml has no query {statement}",
            hint=f"it has {known}" if known else "write it there, in [queries]: name = SQL",
        )
    return found
