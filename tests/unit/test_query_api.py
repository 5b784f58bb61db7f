"""POST /v1/query: SQL that reads, within bounds."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.reading import Reading, reading
from support.records import make_result, new_database

import edge_store.api.query
from edge_store.query import run_query
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Result

PATH = "/v1/query"
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def result(tmp_path: Path) -> Result:
    connection, boot = new_database(tmp_path / "results.db")
    made = make_result(1, boot.boot_id)
    write_batch(connection, boot, read_head(connection), 1, [made])
    connection.close()
    return made


@pytest.fixture
async def box(tmp_path: Path, result: Result) -> AsyncIterator[Reading]:
    async with reading(tmp_path / "results.db") as found:
        yield found


async def test_rows_come_with_their_columns(box: Reading, result: Result) -> None:
    sql = "SELECT id, seq, NULL AS gap, digest FROM results WHERE id = :id"
    async with box.client() as client:
        answer = (await client.post(PATH, json={"sql": sql, "params": {"id": result.id}})).json()
        assert answer["columns"] == ["id", "seq", "gap", "digest"]
        ((found, seq, gap, digest),) = answer["rows"]
        assert (found, seq, gap, answer["is_cut"]) == (result.id, 1, None, False)
        assert len(base64.b64decode(digest)) == 32
        many = "SELECT value FROM json_each('[1,2,3]')"
        cut = (await client.post(PATH, json={"sql": many, "rows_max": 2})).json()
        assert (cut["rows"], cut["is_cut"]) == ([[1], [2]], True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"sql": "DELETE FROM results"}, "query_refused"),
        ({"sql": "SELECT"}, "query_refused"),
        ({"sql": "SELECT 1; SELECT 2"}, "query_refused"),
        ({"sql": "ATTACH 'x' AS y"}, "query_refused"),
        ({"sql": "SELECT :a"}, "query_refused"),
        ({"sql": ENDLESS, "timeout_s": 0.05}, "query_refused"),
        ({"sql": "SELECT 1", "rows_max": 10_001}, "invalid_request"),
        ({"sql": "SELECT 1", "timeout_s": 31}, "invalid_request"),
        ({"sql": "SELECT 1", "more": 1}, "invalid_request"),
        ({"sql": "SELECT 1", "params": {"a": []}}, "invalid_request"),
        ([], "invalid_request"),
    ],
)
async def test_what_does_not_only_read_in_time_is_refused(
    box: Reading, body: Any, code: str
) -> None:
    async with box.client() as client:
        answer = await client.post(PATH, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        count = await client.post(PATH, json={"sql": "SELECT count(*) FROM results"})
        assert count.json()["rows"] == [[1]]


async def test_a_long_query_holds_up_no_other_route_and_no_more_than_a_few_wait(
    box: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, begun = asyncio.get_running_loop(), asyncio.Event()

    def begin(*args: Any, **options: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        return run_query(*args, **options)

    monkeypatch.setattr(edge_store.api.query, "QUERIES_MAX", 1)
    monkeypatch.setattr(edge_store.api.query, "run_query", begin)
    async with box.client() as client:
        long = asyncio.create_task(client.post(PATH, json={"sql": ENDLESS, "timeout_s": 2}))
        async with asyncio.timeout(20):
            await begun.wait()
        busy = await client.post(PATH, json={"sql": "SELECT 1"})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert (await client.get("/v1/results")).status_code == 200
        assert not long.done()
        assert (await long).status_code == 400
        assert (await client.post(PATH, json={"sql": "SELECT 1"})).status_code == 200
