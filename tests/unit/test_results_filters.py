"""Which results a caller gets: its own, those it asks for, to the last byte."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.reading import EVERYBODY, Reading, reading, tenant
from support.records import make_result, new_database

import edge_store.api.pages
from edge_store.ids import new_result_id
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.caller import Caller
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.result import Content, Operation, Result, Status
from edge_store.stored import update_metadata

HOUR = 3_600_000
AT = 1_760_000_000_000  # 2025-10-09T08:53:20Z
STREAM = b'data: {"choices": []}\n\ndata: [DONE]\n\n'


def content(request: bytes, response: bytes) -> Content:
    return Content(input_text=None, request_body=request, response_body=response)


KINDS: list[dict[str, Any]] = [
    {"tenant": "a", "user_id": "u1", "created_at": AT - HOUR, "metadata": '{"k":"1"}'},
    {"tenant": "a", "status": Status.FAILED, "content": content(b"{}", b"<p>no</p>")},
    {"tenant": "b", "response_model": "big", "conversation_id": "c1"},
    {"tenant": "b", "operation": Operation.EMBEDDINGS, "endpoint": "/v1/embeddings"},
    {"tenant": None, "batch_id": "b1", "created_at": AT + HOUR},
    {"tenant": "a", "stream": True, "content": content(b'{"stream":true}', STREAM)},
    {"tenant": "a", "stream": True, "endpoint": "/api/chat", "content": content(b"{}", b'{"x":1}')},
    {"tenant": "a", "content": content(b"", b"")},
]


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    connection, boot = new_database(tmp_path / "results.db")
    made = [make_result(n, boot.boot_id, **kind) for n, kind in enumerate(KINDS, 1)]
    write_batch(connection, boot, read_head(connection), len(made), made)
    connection.close()
    return made


@pytest.fixture
async def box(tmp_path: Path, results: list[Result]) -> AsyncIterator[Reading]:
    async with reading(tmp_path / "results.db") as found:
        yield found


async def seqs(box: Reading, /, caller: Caller = EVERYBODY, **params: Any) -> list[int]:
    """All pages, in the order they come."""
    found: list[int] = []
    place = "after_seq" if "after_seq" in params else "before_seq"
    async with box.client(caller) as client:
        while True:
            answer = await client.get("/v1/results", params=params)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += [each["seq"] for each in page["data"]]
            if not page["has_more"]:
                assert page["next_seq"] is None
                return found
            params[place] = page["next_seq"]


@pytest.mark.parametrize("window", [1, 3, 20_000])
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"status": "failed"}, [2]),
        ({"model": "big"}, [3]),
        ({"operation": "embeddings"}, [4]),
        ({"tenant": "b"}, [3, 4]),
        ({"user": "u1"}, [1]),
        ({"conversation_id": "c1"}, [3]),
        ({"batch_id": "b1"}, [5]),
        ({"since": "2025-10-09T08:53:20Z", "tenant": "a"}, [2, 6, 7, 8]),
        ({"until": "2025-10-09T10:53:20+02:00"}, [1]),
        ({"since": "2025-10-09T08:53:21"}, [5]),
        ({"metadata[k]": "1"}, [1]),
        ({"metadata[k]": "1", "status": "failed"}, []),
    ],
)
async def test_filters_hold_over_pages_of_any_size_both_ways(
    box: Reading,
    monkeypatch: pytest.MonkeyPatch,
    window: int,
    params: Any,
    expected: list[int],
) -> None:
    monkeypatch.setattr(edge_store.api.pages, "WINDOW", window)
    for limit in (1, 3, 100):
        assert await seqs(box, after_seq=0, limit=limit, **params) == expected
        assert await seqs(box, limit=limit, **params) == expected[::-1]


async def test_a_search_that_takes_long_ends_early_with_a_place_to_go_on(
    box: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.api.pages, "WINDOW", 2)
    monkeypatch.setattr(edge_store.api.pages, "PAGE_SECONDS_MAX", 0)
    async with box.client() as client:
        page = (await client.get("/v1/results", params={"batch_id": "b1"})).json()
    assert (page["data"], page["has_more"], page["next_seq"]) == ([], True, 7)
    assert await seqs(box, batch_id="b1") == [5]


async def test_a_tenant_gets_its_own_whatever_it_asks_for(
    box: Reading, results: list[Result]
) -> None:
    assert await seqs(box, tenant("a"), after_seq=0) == [1, 2, 6, 7, 8]
    assert await seqs(box, tenant("a"), tenant="b") == []
    absent = new_result_id()
    await box.writer.run(delete_results, [8], Reason.FORGET)
    async with box.client(tenant("b")) as client:
        for suffix in ("", "/raw", "/raw?part=request", "/receipt"):
            told = set()
            for name in (results[0].id, results[7].id, absent):
                answer = await client.get(f"/v1/results/{name}{suffix}")
                told.add((answer.status_code, answer.text.replace(name, "ID")))
            assert len(told) == 1
            assert told.pop()[0] == 404
            own = await client.get(f"/v1/results/{results[2].id}{suffix}")
            assert own.status_code == 200
        assert (await client.get("/v1/results/no-uuid/receipt")).status_code == 400


async def test_the_newest_metadata_is_shown_and_asked_for(
    box: Reading, results: list[Result]
) -> None:
    await box.writer.run(update_metadata, Caller(), results[0].id, {"k": "2"})
    for value, expected in (("1", []), ("2", [1])):
        params: Any = {"metadata[k]": value}
        assert await seqs(box, **params) == expected
    async with box.client() as client:
        one = (await client.get(f"/v1/results/{results[0].id}")).json()
        (listed,) = (await client.get("/v1/results?user=u1")).json()["data"]
    assert one["metadata"] == listed["metadata"] == {"k": "2"}


async def test_raw_is_the_very_bytes_with_their_kind(box: Reading, results: list[Result]) -> None:
    expected = {
        1: (b"<p>no</p>", "application/octet-stream", b"{}"),
        5: (STREAM, "text/event-stream", b'{"stream":true}'),
        6: (b'{"x":1}', "application/x-ndjson", b"{}"),
    }
    async with box.client() as client:
        for place, (response, kind, request) in expected.items():
            path = f"/v1/results/{results[place].id}/raw"
            answer = await client.get(path)
            assert (answer.content, answer.headers["content-type"]) == (response, kind)
            assert answer.headers["x-content-type-options"] == "nosniff"
            asked = await client.get(path, params={"part": "request"})
            assert (asked.content, asked.headers["content-type"]) == (request, "application/json")
        none = await client.get(f"/v1/results/{results[7].id}/raw")
        assert (none.status_code, none.json()["error"]["code"]) == (404, "not_found")
        odd = await client.get(f"/v1/results/{results[0].id}/raw?part=both")
        assert odd.status_code == 400


@pytest.mark.parametrize(
    "query", ["status=done", "operation=x", "since=yesterday", "metadata=1", "until=9999-99-99"]
)
async def test_a_filter_that_cannot_be_is_400(box: Reading, query: str) -> None:
    async with box.client() as client:
        answer = await client.get(f"/v1/results?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("tenat=a", "tenat"),
        ("status=failed&Model=big", "Model"),
        ("metadata[k]=1&x[y]=1", "x[y]"),
        ("=1", ""),
        ("tag=", "tag"),
    ],
)
async def test_a_mistyped_filter_is_no_list_of_everything(
    box: Reading, query: str, name: str
) -> None:
    async with box.client() as client:
        for path in ("/v1/results", "/v1/changes"):
            answer = await client.get(f"{path}?{query}")
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, name)
            assert repr(name) in error["message"]
            assert "tenant" in error["hint"]
            assert (await client.get(f"{path}?metadata[k]=1&tenant=a")).status_code == 200
        assert (await client.get("/v1/chat/completions?modle=m")).status_code == 400
        assert (await client.get("/livez?probe=1")).status_code == 200
        assert (await client.head("/v1/results?tenat=a")).status_code == 400
