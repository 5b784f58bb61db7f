"""A database with months of results in it, made in minutes: what the query benchmark asks.

Rows are real ones, through ``to_row`` and the shipped INSERTs, with short texts, so that a million
of them are about a gigabyte. Nothing is random: the same number of rows of one box is the same
database, but for its ids.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from edge_store.chain import GENESIS, commit_digest
from edge_store.identity import create_identity
from edge_store.ids import new_result_id
from edge_store.recorder.boot import begin_boot
from edge_store.result import Boot, Content, JsonState, Operation, Output, Result, Status
from edge_store.rows import insert_rows, to_row
from edge_store.schema import migrate
from edge_store.sql import sql
from edge_store.sqlite import open_writer
from edge_store.wal import checkpoint

__all__ = ["DAYS", "FIRST_AT", "LAST_AT", "MODELS", "History"]

MODELS = ("qwen3-8b", "qwen3-8b", "llama-3.1-8b", "llama-3.1-8b", "mistral-7b", "gemma-3-4b")
FIRST_AT = 1_767_225_600_000  # 2026-01-01 UTC
DAYS = 90
LAST_AT = FIRST_AT + DAYS * 86_400_000
ROWS_PER_COMMIT = 8192
COMMITS_PER_CHECKPOINT = 16
CUSTOMERS = 20_000
TICKETS = 10**8
ANSWER = "The printer on floor {} answers again: its queue was full. Ticket {} can be closed. "


class History:
    """A file that is written to, open. ``rows`` is how many results it holds."""

    def __init__(
        self,
        path: Path,
        rows_planned: int,
        *,
        device_id: str = "bench",
        days: int = DAYS,
        varied: Callable[[Result, int], Result] = lambda result, _number: result,
    ) -> None:
        """``varied`` makes of a result, and its number, the one that is stored."""
        self.path = path
        self.connection = open_writer(path, same_thread=False)
        migrate(self.connection)
        self.boot = begin_boot(
            self.connection,
            device_id=create_identity(self.connection, device_id),
            version="0",
            engine="demo",
            engine_version="0",
        )
        self._varied = varied
        self._pace_ms = days * 86_400_000 / rows_planned
        self._digest = GENESIS
        self.rows = 0

    def grow(self, rows: int, say: Callable[[str], None] = lambda _text: None) -> None:
        """Add so many results, in large transactions."""
        until, commits = self.rows + rows, 0
        while self.rows < until:
            self.commit(min(ROWS_PER_COMMIT, until - self.rows))
            commits += 1
            if commits % COMMITS_PER_CHECKPOINT == 0:
                checkpoint(self.connection)
                say(f"{self.rows} of {until} rows")
        checkpoint(self.connection)

    def commit(self, rows: int) -> tuple[float, float]:
        """Add so many results in one transaction. Returns the seconds, and the CPU seconds, from
        its BEGIN to the end of its COMMIT.
        """
        first, last = self.rows + 1, self.rows + rows
        made = [
            to_row(n, self.boot.timeline, self._varied(past_result(self.boot, n, self._pace_ms), n))
            for n in range(first, last + 1)
        ]
        columns = (self.boot.boot_id, LAST_AT, last, first, last)
        digest = commit_digest(self._digest, columns, (row.digest for row in made))
        started, cpu = time.perf_counter(), time.thread_time()
        self.connection.execute(sql("begin"))
        insert_rows(self.connection, made)
        self.connection.execute(sql("insert_commit"), (*columns, digest, self._digest))
        self.connection.execute(sql("commit"))
        spent = time.perf_counter() - started, time.thread_time() - cpu
        self._digest, self.rows = digest, last
        return spent

    def close(self) -> None:
        """Close the file."""
        self.connection.close()


def past_result(boot: Boot, number: int, pace_ms: float) -> Result:
    """Result ``number`` of the history: models, outcomes, lengths and times differ."""
    seed = f"{boot.device_id} {number}".encode()
    noise = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest(), "big")
    ticket = noise // 43 % TICKETS
    model = MODELS[noise % len(MODELS)]
    created_at = FIRST_AT + int(number * pace_ms)
    tokens = 16 + noise // 7 % 500
    latency_ms = round(40 + tokens * (4 + noise // 11 % 100 / 20), 3)
    stream = noise // 13 % 2 == 1
    status = Status.FAILED if noise // 17 % 50 == 0 else Status.COMPLETED
    text = ANSWER.format(noise // 19 % 9, ticket) * (1 + noise // 23 % 3)
    document = None
    if noise // 29 % 4 == 0:
        document = f'{{"customer":{{"id":{noise // 31 % CUSTOMERS}}},"urgent":true}}'
        text = document
    request = b'{"messages":[{"role":"user","content":"What of ticket %d?"}]}' % ticket
    return Result(
        id=new_result_id(),
        device_id=boot.device_id,
        boot_id=boot.boot_id,
        boot_seq=number,
        operation=Operation.CHAT,
        endpoint="/v1/chat/completions",
        status=status,
        request_model=model,
        response_model=model if status is Status.COMPLETED else None,
        engine="demo",
        engine_version="0",
        params='{"temperature":0.7,"max_tokens":512}',
        created_at=created_at,
        completed_at=created_at + int(latency_ms),
        clock_synced=True,
        latency_ms=latency_ms,
        ttft_ms=round(latency_ms / 10, 3) if stream else None,
        queue_ms=0.01,
        input_tokens=20 + noise // 37 % 900,
        output_tokens=tokens,
        cached_tokens=0,
        finish_reason="stop",
        stream=stream,
        metadata=f'{{"order":"{noise // 41 % CUSTOMERS}"}}',
        request_fingerprint=hashlib.sha256(request).digest(),
        http_status=200,
        outputs=(
            Output(
                choice_index=0,
                output_text=text,
                finish_reason="stop",
                output_json=document,
                json_state=JsonState.TEXT if document is None else JsonState.VALID,
            ),
        ),
        content=Content(
            input_text=f"What of ticket {ticket}?",
            request_body=request,
            response_body=text.encode(),
        ),
    )
