"""A lake of some boxes, for engines to be tried on: two models, failures, JSON of every state; with
files that are no longer in force.
"""

import random
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from support.records import make_result, new_database

from edge_store.fleet.lake.care import compact
from edge_store.fleet.lake.export import ExportPlan, export
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import TABLES_DEFAULT
from edge_store.ids import DeviceId
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import JsonState, Output, Result, Status

BOXES = 6
RESULTS = 2000
DAY_MS = 86_400_000
FILE_BYTES = 2**27
FIRST_AT = 1_760_000_000_000
STATES = tuple(JsonState)


def main() -> None:
    chance = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        copies = tuple(Path(folder) / f"box-{number}.db" for number in range(BOXES))
        for copy in copies:
            fill(copy, chance)
        lake, rows = Lake(sys.argv[1]), 0
        for some in (copies[: BOXES // 2], copies):
            rows += sum(report.rows for report in export(ExportPlan(copies=some), lake))
        for table in TABLES_DEFAULT:
            compact(lake, table, FILE_BYTES)
    print(f"{rows} rows of {BOXES} boxes in {sys.argv[1]}")


def fill(copy: Path, chance: random.Random) -> None:
    connection, boot = new_database(copy, DeviceId(copy.stem))
    with closing(connection):
        head = read_head(connection)
        results = [one(number, boot.boot_id, copy.stem, chance) for number in range(1, RESULTS)]
        for first in range(0, RESULTS, 100):
            batch = results[first : first + 100]
            head = write_batch(connection, boot, head, first + len(batch), batch).head


def one(number: int, boot_id: str, device: str, chance: random.Random) -> Result:
    at = FIRST_AT + chance.randrange(5 * DAY_MS)
    latency_ms = chance.expovariate(1 / 800)
    has_failed = chance.random() < 0.05
    outputs = tuple(
        Output(
            choice_index=index,
            output_text=f"答 {number} — \u202eanswer",
            finish_reason=chance.choice(["stop", "length"]),
            json_state=chance.choice(STATES),
            schema_valid=chance.choice([None, True, False]),
        )
        for index in range(0 if has_failed else chance.choice([1, 1, 1, 3]))
    )
    return make_result(
        number,
        boot_id,
        device_id=DeviceId(device),
        status=Status.FAILED if has_failed else Status.COMPLETED,
        error_type="engine_crashed" if has_failed else None,
        response_model=chance.choice(["qwen3-8b", "llama-3-70b", None]),
        created_at=at,
        completed_at=at + round(latency_ms),
        latency_ms=latency_ms,
        input_tokens=chance.choice([None, chance.randrange(4000)]),
        output_tokens=chance.randrange(900),
        outputs=outputs,
    )


if __name__ == "__main__":
    main()
