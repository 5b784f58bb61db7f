"""GET /v1/results, health and metrics, through the application that serves them."""

import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.reading import reading, tenant
from support.records import make_result, new_database

import edge_store.api.pages
from edge_store.ids import new_result_id
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Content, Output, Result
from edge_store.sql import sql
from edge_store.sqlite import open_reader, open_writer

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

    async with (
        reading(tmp_path / "results.db", health=health) as box,
        box.client() as found,
    ):
        found.state = state  # type: ignore[attr-defined]  # for the test that changes it
        yield found


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
    monkeypatch.setattr(edge_store.api.pages, bound, 0)
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


async def test_our_own_defect_is_said_in_the_envelope(
    tmp_path: Path, results: list[Result]
) -> None:
    async def broken() -> dict[str, Any]:
        raise ZeroDivisionError

    async with reading(tmp_path / "results.db", health=broken) as box:
        transport = httpx.ASGITransport(box.named(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-should-retry"] == "false"


@pytest.fixture
async def of_tenants(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, list[Result]]]:
    """Results of t1, t2, t1 and of nobody; who asks is t1, and may read its own."""
    connection, boot = new_database(tmp_path / "results.db")
    owners = ("t1", "t2", "t1", None)
    stored = [make_result(n, boot.boot_id, tenant=owner) for n, owner in enumerate(owners, 1)]
    write_batch(connection, boot, read_head(connection), len(stored), stored)
    async with reading(tmp_path / "results.db") as box, box.client(tenant("t1")) as client:
        yield client, stored


@pytest.mark.parametrize("query", ["", "?after_seq=0"])
async def test_a_tenants_pages_are_its_own_results_alone(
    of_tenants: tuple[httpx.AsyncClient, list[Result]], query: str
) -> None:
    client, stored = of_tenants
    page = (await client.get(f"/v1/results{query}")).json()
    assert {found["id"] for found in page["data"]} == {stored[0].id, stored[2].id}
    assert page["has_more"] is False
    first = (await client.get("/v1/results?limit=1")).json()
    assert first["has_more"] is True


async def test_anothers_result_is_answered_as_one_that_never_was(
    of_tenants: tuple[httpx.AsyncClient, list[Result]],
) -> None:
    client, stored = of_tenants
    never = new_result_id()
    for path in ("/v1/results/{}", "/v1/results/{}/receipt"):
        assert (await client.get(path.format(stored[0].id))).status_code == 200
        absent = await client.get(path.format(never))
        assert absent.status_code == 404
        for foreign in (stored[1].id, stored[3].id):
            answer = await client.get(path.format(foreign))
            assert answer.status_code == 404
            assert answer.text.replace(foreign, never) == absent.text


@pytest.mark.parametrize(
    "block", ["select_results_of_tenant_after", "select_results_of_tenant_before"]
)
def test_a_tenants_page_is_found_by_its_index(
    tmp_path: Path, results: list[Result], block: str
) -> None:
    values = dict.fromkeys(re.findall(r":(\w+)", sql(block)))
    with closing(open_reader(tmp_path / "results.db")) as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql(block)}", values).fetchall())
    assert "results_by_tenant" in plan
    assert "TEMP B-TREE" not in plan
