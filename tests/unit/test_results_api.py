"""GET /v1/results, health and metrics, through the application that serves them."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from support.records import make_result, new_database

import edge_store.api.results
from edge_store.api.app import own_routes
from edge_store.api.services import Services
from edge_store.ids import new_result_id
from edge_store.observability.metrics import Metrics
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Content, Output, Result
from edge_store.sqlite import DatabaseThread, open_reader, open_writer

COUNT = 5


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    connection, boot = new_database(tmp_path / "results.db")
    stored = [make_result(n, boot.boot_id) for n in range(1, COUNT + 1)]
    content = Content(input_text="h\u00e9", request_body=b"\xff{}", response_body=b"ok")
    outputs = (Output(choice_index=0, output_text="{}", output_json='{"a": [1]}'),)
    stored[-1] = make_result(
        COUNT, boot.boot_id, content=content, outputs=outputs, metadata='{"ticket": "7"}'
    )
    write_batch(connection, boot, read_head(connection), COUNT, stored)
    return stored


@pytest.fixture
async def client(tmp_path: Path, results: list[Result]) -> AsyncIterator[httpx.AsyncClient]:
    state: dict[str, Any] = {"is_ready": True}

    async def health() -> dict[str, Any]:
        return state

    reader = await DatabaseThread.open(lambda: open_reader(tmp_path / "results.db"))
    app = own_routes(
        Services(
            reader=reader,
            change=cast("Any", None),
            exposition=Metrics().exposition,
            health=health,
        )
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://box") as found:
        found.state = state  # type: ignore[attr-defined]  # for the test that changes it
        yield found
    await reader.close()


async def test_the_newest_results_come_first(
    client: httpx.AsyncClient, results: list[Result]
) -> None:
    page = (await client.get("/v1/results", params={"limit": 3})).json()
    assert [r["id"] for r in page["data"]] == [r.id for r in results[:1:-1]]
    assert page["has_more"] is True
    last = page["data"][-1]["seq"]
    page = (await client.get("/v1/results", params={"before_seq": last})).json()
    assert [r["id"] for r in page["data"]] == [results[1].id, results[0].id]
    assert page["has_more"] is False


async def test_what_came_after_a_seq_comes_in_order(
    client: httpx.AsyncClient, results: list[Result]
) -> None:
    page = (await client.get("/v1/results", params={"after_seq": 2, "limit": 2})).json()
    assert [r["id"] for r in page["data"]] == [results[2].id, results[3].id]
    assert page["has_more"] is True


async def test_one_result_comes_whole(client: httpx.AsyncClient, results: list[Result]) -> None:
    found = (await client.get(f"/v1/results/{results[-1].id}")).json()
    assert found["metadata"] == {"ticket": "7"}
    assert found["params"] == {}
    assert found["outputs"][0]["output_json"] == {"a": [1]}
    assert found["created_at"] == "2025-10-09T08:53:20.000Z"
    assert found["input_text"] == "h\u00e9"
    assert found["request_body"] == "\\xff{}"
    assert found["request_fingerprint"] == results[-1].request_fingerprint.hex()
    listed = (await client.get("/v1/results")).json()["data"][0]
    assert "request_body" not in listed


async def test_a_list_reads_no_bodies(client: httpx.AsyncClient, tmp_path: Path) -> None:
    with closing(open_writer(tmp_path / "results.db")) as connection:
        connection.execute("ALTER TABLE requests RENAME TO elsewhere")
    assert len((await client.get("/v1/results")).json()["data"]) == COUNT


@pytest.mark.parametrize("bound", ["PAGE_SECONDS_MAX", "PAGE_BYTES_MAX"])
async def test_a_page_that_grows_too_big_ends_early_and_can_be_continued(
    client: httpx.AsyncClient,
    results: list[Result],
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_store.api.results, bound, 0)
    found: list[str] = []
    after, has_more = 0, True
    while has_more and len(found) < COUNT:
        page = (await client.get("/v1/results", params={"after_seq": after})).json()
        assert len(page["data"]) == 1
        found.append(page["data"][0]["id"])
        after, has_more = page["data"][0]["seq"], page["has_more"]
    assert found == [result.id for result in results]
    assert has_more is False


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1001", "before_seq=-1", "after_seq=99999999999999999999"]
)
async def test_a_page_out_of_bounds_is_400(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/results?{query}")
    assert answer.status_code == 400
    assert query.split("=", maxsplit=1)[0] in answer.json()["error"]["message"]


async def test_what_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    for path in (f"/v1/results/{new_result_id()}", "/v1/resultsx", "/nothing"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    refused = await client.delete("/v1/results")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_health_and_metrics_are_told(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).text == "ok\n"
    assert (await client.get("/readyz")).status_code == 200
    client.state["is_ready"] = False  # type: ignore[attr-defined]  # see the fixture
    assert (await client.get("/readyz")).status_code == 503
    assert "edge_store_admitted_total" in (await client.get("/metrics")).text
