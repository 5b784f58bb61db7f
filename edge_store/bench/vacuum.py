"""What ``auto_vacuum`` costs a row: see docs/adr/0018."""

import time
from contextlib import closing
from pathlib import Path

from edge_store.bench.figures import Figure, median
from edge_store.bench.writer import prepare, sample_result
from edge_store.recorder.batch import read_head, write_batch
from edge_store.sql import sql
from edge_store.sqlite import open_writer
from edge_store.wal import checkpoint, wal_bytes

__all__ = ["measure_vacuum"]

VACUUM_ROWS = 640


def measure_vacuum(folder: Path, pairs: int) -> list[Figure]:
    """CPU and WAL of a row in a file that has ``auto_vacuum``, against one that has not."""
    figures = []
    for size in (1, 16, 64):
        with (
            closing(Slices(folder / f"plain{size}.db", 0)) as plain,
            closing(Slices(folder / f"vacuum{size}.db", 2)) as vacuumed,
        ):
            found = []
            for number in range(pairs):
                order = (plain, vacuumed) if number % 2 else (vacuumed, plain)
                took = {each: each.write(size) for each in order}
                ratios = zip(took[vacuumed], took[plain], strict=True)
                found.append([new / old for new, old in ratios])
        for place, name in enumerate(("CPU", "WAL")):
            figures.append(
                Figure(
                    name=f"{name} of a row with auto_vacuum ÷ without, {size} to a COMMIT",
                    value=median([each[place] for each in found]),
                    unit="ratio",
                )
            )
    return figures


class Slices:
    """A file of its own that grows."""

    def __init__(self, path: Path, auto_vacuum: int) -> None:
        self._path = path
        self.connection = open_writer(path)
        if auto_vacuum:  # before the first table; a WAL file is written anew for it
            self.connection.execute("PRAGMA journal_mode = DELETE")
            self.connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
            self.connection.execute(sql("vacuum"))
            self.connection.execute("PRAGMA journal_mode = WAL")
        assert self.connection.execute("PRAGMA auto_vacuum").fetchone() == (auto_vacuum,)
        self._boot = prepare(self.connection)
        self._head, self._done = read_head(self.connection), 0

    def write(self, size: int) -> tuple[float, float]:
        """CPU seconds and WAL bytes of some rows, so many to a COMMIT."""
        rows = VACUUM_ROWS if size > 1 else VACUUM_ROWS // 4
        results = [sample_result(self._boot, self._done + n) for n in range(1, rows + 1)]
        checkpoint(self.connection)
        began = time.process_time()
        for first in range(0, rows, size):
            batch = results[first : first + size]
            self._done += len(batch)
            written = write_batch(self.connection, self._boot, self._head, self._done, batch)
            self._head = written.head
        return time.process_time() - began, float(wal_bytes(self._path))

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
