"""A box with results of given ages, and passes of retention over it in this process."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from support.records import make_result, new_database

from edge_store.alerts import Alarms
from edge_store.archive.work import Job, Written, carry_out
from edge_store.clock import now_ms
from edge_store.config import ReplicaSection, RetentionSection, StoreSection
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.transactions import in_transaction
from edge_store.result import Content, Record, Result
from edge_store.retention.changes import RETENTION_CHANGES
from edge_store.retention.choice import SEQ_MAX
from edge_store.retention.passes import Done, Pass
from edge_store.retention.plan import Plan, make_plan
from edge_store.sqlite import Connection, open_reader

DAY_MS = 86_400_000
IMAGE = bytes(range(256)) * 24


class Box:
    """One result per day of ``ages``, the oldest first, three to a commit."""

    def __init__(self, folder: Path, ages: Sequence[float], **changes: Any) -> None:
        self.path = folder / "results.db"
        self.archive = folder / "archive"
        self.connection, self.boot = new_database(self.path)
        self.stop = threading.Event()
        self.admitted = 0
        self.add(ages, **changes)

    def add(self, ages: Sequence[float], **changes: Any) -> None:
        now = now_ms()
        head = read_head(self.connection)
        for first in range(0, len(ages), 3):
            batch = []
            for age in ages[first : first + 3]:
                self.admitted += 1
                at = now - round(age * DAY_MS)
                batch.append(self.result(self.admitted, at, **changes))
            head = write_batch(self.connection, self.boot, head, self.admitted, batch).head

    def result(self, number: int, at: int, **changes: Any) -> Result:
        text = f"question {number} é 你好 😀"
        content = Content(
            input_text=text,
            request_body=msgspec.json.encode({"messages": [{"role": "user", "content": text}]}),
            response_body=b"\x00answer" * number,
        )
        fields = {"created_at": at - 10, "completed_at": at, "content": content, **changes}
        return make_result(number, self.boot.boot_id, **fields)

    def close(self) -> None:
        self.connection.close()

    def make(self, name: str, params: Record) -> Any:
        value = in_transaction(self.connection, RETENTION_CHANGES[name][1], params)
        return msgspec.to_builtins(value)

    def run(
        self,
        make: Callable[[str, Record], Any] | None = None,
        aside: Callable[[Job], Written] = carry_out,
        upto: int = SEQ_MAX,
        **settings: Any,
    ) -> Done:
        config = RetentionSection(**settings)
        work = Pass(self.path, config, make or self.make, self.stop, aside)
        return work.run(upto)

    def plan(self, upto: int = SEQ_MAX, **settings: Any) -> Plan:
        with closing(open_reader(self.path)) as reader:
            return make_plan(reader, self.path, RetentionSection(**settings), upto, None)

    def put_away(self, **settings: Any) -> Done:
        """The same with an archive."""
        return self.run(archive=str(self.archive), **settings)

    def seqs(self, table: str = "results") -> list[int]:
        rows = self.connection.execute(f"SELECT DISTINCT seq FROM {table} ORDER BY 1")
        return [seq for (seq,) in rows]

    def id_of(self, seq: int) -> str:
        (name,) = self.connection.execute("SELECT id FROM results WHERE seq = ?", [seq]).fetchone()
        return str(name)

    def pin(self, seq: int, value: str = "true") -> None:
        self.connection.execute(
            "INSERT INTO annotations (at, id, kind, value) VALUES (0, ?, 'pin', ?)",
            (self.id_of(seq), value),
        )

    def account(self) -> dict[str, int]:
        cursor = self.connection.execute(
            "SELECT admitted, completed, deleted_forget, deleted_retention, archived, in_flight, "
            "percent FROM completeness"
        )
        (row,) = cursor.fetchall()
        return dict(zip([column[0] for column in cursor.description], row, strict=True))


def stored_rows(connection: Connection) -> dict[int, list[Any]]:
    """Everything of each result, as it is stored."""
    found: dict[int, list[Any]] = {}
    for table, order in (("results", "seq"), ("outputs", "seq, choice_index"), ("requests", "seq"),
                         ("request_blobs", "seq, place")):  # fmt: skip
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}"):
            found.setdefault(row[0], []).append((table, *row))
    return found


def room_of(box: Box, **settings: Any) -> Any:
    """What the daemon gives the room of retention, ``Around``, as far as that looks at it."""

    async def change(carry_out: Any, params: Any) -> Any:
        return in_transaction(box.connection, carry_out, params)

    config = SimpleNamespace(
        store=StoreSection(path=str(box.path)),
        replica=ReplicaSection(enabled=False),
        retention=RetentionSection(**settings),
    )
    return SimpleNamespace(
        path=box.path,
        replica=None,
        config=config,
        alarms=Alarms(Metrics()),
        change=change,
        retention_asked=asyncio.Event(),
    )
