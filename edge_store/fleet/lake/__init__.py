"""The lake: Delta tables with the results of all boxes, which the copies are appended to.

``tables`` reads the rows of one copy that a lake lacks; ``store`` opens the Delta tables, on a
folder or S3, and their watermarks; ``export`` appends; ``forget`` deletes, and ``tombstones``
remembers what; ``care`` compacts, and lets go of what is old; ``ask`` answers SQL over a lake and
the copies, in a ``session`` of DuckDB.
"""

from edge_store.errors import ConfigError, install

try:
    import deltalake  # noqa: F401  (its modules import it)
    import duckdb  # noqa: F401
    import pyarrow as pa  # noqa: F401
except ImportError as exc:
    raise ConfigError(
        f"the lake needs the package {exc.name}, which is not installed",
        hint=install("fleet"),
    ) from exc

__all__: list[str] = []
