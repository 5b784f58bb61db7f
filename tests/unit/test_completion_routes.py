"""Stored completions by their routes: whose they are, which ids find them, what is none."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.reading import Reading, reading, tenant
from support.records import make_result, new_database

import edge_store.stored
from edge_store.chain import verify_chain
from edge_store.indexes import JsonPath, add_index
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.caller import Caller
from edge_store.result import Content, Operation, Output, Result, Status
from edge_store.sqlite import open_reader
from edge_store.stored import update_metadata

PATH = "/v1/chat/completions"
REQUEST = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'


def stored(number: int, boot_id: str, **changes: Any) -> Result:
    body = {"id": "x", "choices": [{"index": 0, "message": {"content": f"answer {number}"}}]}
    content = Content(
        input_text="hello", request_body=REQUEST, response_body=json.dumps(body).encode()
    )
    return make_result(number, boot_id, **{"content": content, **changes})


KINDS: list[dict[str, Any]] = [
    {"tenant": "a", "metadata": '{"k": "1"}'},
    {"tenant": "b", "metadata": '{"k": "1"}', "response_model": "other"},
    {"tenant": "a", "response_model": None, "request_model": None},
    {"tenant": None, "response_id": "chatcmpl-7"},
    {"tenant": "b", "response_id": "chatcmpl-7"},
    {"tenant": "a", "response_id": "chatcmpl-8", "stream": True},
]
OTHERS: list[dict[str, Any]] = [
    {"tenant": "a", "status": Status.INCOMPLETE},
    {"tenant": "a", "operation": Operation.TEXT_COMPLETION, "endpoint": "/v1/completions"},
    {"tenant": "a", "endpoint": "/v1/messages"},
    {"tenant": "a", "outputs": ()},
]


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    connection, boot = new_database(tmp_path / "results.db")
    made = [stored(n, boot.boot_id, **kind) for n, kind in enumerate([*KINDS, *OTHERS], 1)]
    write_batch(connection, boot, read_head(connection), len(made), made)
    connection.close()
    return made


@pytest.fixture
async def box(tmp_path: Path, results: list[Result]) -> AsyncIterator[Reading]:
    async with reading(tmp_path / "results.db") as found:
        yield found


async def listed(box: Reading, caller: Caller, **params: Any) -> list[str]:
    """All ids, page by page."""
    found: list[str] = []
    async with box.client(caller) as client:
        while True:
            answer = await client.get(PATH, params=params)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += [each["id"] for each in page["data"]]
            if not page["has_more"]:
                return found
            assert page["last_id"] == found[-1]
            params["after"] = found[-1]


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_merge_all_tenants_and_models_by_order_of_commit(
    box: Reading, results: list[Result], limit: int, order: str
) -> None:
    expected = [result.id for result in results[: len(KINDS)]]
    found = await listed(box, Caller(), limit=limit, order=order)
    assert found == (expected if order == "asc" else expected[::-1])


async def test_a_tenant_lists_its_own_alone(box: Reading, results: list[Result]) -> None:
    for name, places in {"a": [0, 2, 5], "b": [1, 4], "c": []}.items():
        assert await listed(box, tenant(name)) == [results[place].id for place in places]
    assert await listed(box, tenant("a"), model="demo") == [results[0].id, results[5].id]
    assert await listed(box, Caller(), model="other") == [results[1].id]
    assert await listed(box, Caller(), **{"metadata[k]": "1"}) == [r.id for r in results[:2]]
    assert await listed(box, tenant("b"), **{"metadata[k]": "1"}) == [results[1].id]


async def test_an_index_on_metadata_finds_the_same(box: Reading, results: list[Result]) -> None:
    many: Any = {"metadata[k]": "1", "limit": 1}
    both: Any = {"metadata[k]": "1", "metadata[j]": "2"}
    found = {}
    for is_indexed in (False, True):
        if is_indexed:
            await box.writer.run(add_index, JsonPath.parse("metadata.k"))
        else:
            ids = [results[0].id, results[2].id, results[4].id]
            for each, metadata in zip(
                ids, ({"k": "0"}, {"k": "1", "j": "2"}, {"k": "1"}), strict=True
            ):
                await box.writer.run(update_metadata, Caller(), each, metadata)
        found[is_indexed] = [
            await listed(box, caller, **params, order=order)
            for caller in (Caller(), tenant("a"), tenant("b"))
            for params in (many, both, {**many, "model": "other"})
            for order in ("asc", "desc")
        ]
    assert found[True] == found[False]
    assert found[True][0] == [results[1].id, results[2].id, results[4].id]
    assert await listed(box, tenant("a"), **both) == [results[2].id]


async def test_a_key_with_a_dot_is_no_path(box: Reading, results: list[Result]) -> None:
    await box.writer.run(add_index, JsonPath.parse("metadata.a.b"))
    await box.writer.run(update_metadata, Caller(), results[0].id, {"a.b": "1"})
    assert await listed(box, Caller(), **{"metadata[a.b]": "1"}) == [results[0].id]


@pytest.mark.parametrize("name", ["select_stored_indexed_after", "select_stored_indexed_before"])
async def test_a_page_by_metadata_is_read_off_its_index(
    box: Reading, results: list[Result], name: str
) -> None:
    path = JsonPath.parse("metadata.k")
    await box.writer.run(add_index, path)
    statement = path.sql(name)
    values = dict.fromkeys(re.findall(r":(\w+)", statement))
    with closing(open_reader(box.path)) as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall())
    assert "USING INDEX json.metadata.k" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize("suffix", ["", "/messages"])
async def test_foreign_id_is_answered_as_an_absent_one(
    box: Reading, results: list[Result], suffix: str
) -> None:
    absent = "01a00000-0000-7000-8000-000000000000"
    async with box.client(tenant("b")) as client:
        for method in ("GET", "POST", "DELETE") if not suffix else ("GET",):
            body: dict[str, Any] | None = {"metadata": {}} if method == "POST" else None
            told = set()
            for name in (results[0].id, results[3].id, absent):
                answer = await client.request(method, f"{PATH}/{name}{suffix}", json=body)
                told.add((answer.status_code, answer.text.replace(name, "ID")))
            assert len(told) == 1
            assert told.pop()[0] == 404
        foreign = await client.get(PATH, params={"after": results[0].id})
        assert foreign.status_code == 404
    with closing(open_reader(box.path)) as connection:
        for table in ("annotations", "deletions"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_an_upstreams_own_id_finds_the_newest_of_the_callers(
    box: Reading, results: list[Result]
) -> None:
    for caller, place in ((Caller(), 4), (tenant("b"), 4)):
        async with box.client(caller) as client:
            answer = (await client.get(f"{PATH}/chatcmpl-7")).json()
            assert (answer["id"], answer["request_id"]) == (results[place].id,) * 2
            after = await client.get(PATH, params={"after": "chatcmpl-7"})
            assert after.status_code == 200
    async with box.client(tenant("a")) as client:
        assert (await client.get(f"{PATH}/chatcmpl-7")).status_code == 404
        gone = await client.delete(f"{PATH}/chatcmpl-8")
        assert gone.json() == {
            "id": results[5].id,
            "object": "chat.completion.deleted",
            "deleted": True,
        }
        assert (await client.get(f"{PATH}/chatcmpl-8")).status_code == 404
    with closing(open_reader(box.path)) as connection:
        assert verify_chain(connection).faults == ()


async def test_what_is_no_completion_is_found_by_no_route(
    box: Reading, results: list[Result]
) -> None:
    async with box.client() as client:
        for result in results[len(KINDS) :]:
            assert (await client.get(f"{PATH}/{result.id}")).status_code == 404
            assert (await client.delete(f"{PATH}/{result.id}")).status_code == 404


async def test_completion_without_its_bodies_is_put_together_from_its_choices(
    tmp_path: Path,
) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    call = '[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]'
    outputs = (
        Output(choice_index=0, output_text="hi", reasoning="hm", finish_reason="stop"),
        Output(choice_index=1, output_text="", tool_calls=call, finish_reason="tool_calls"),
    )
    bare = Content(input_text=None, request_body=b"", response_body=b"")
    made = make_result(1, boot.boot_id, outputs=outputs, content=bare, cached_tokens=1)
    write_batch(connection, boot, read_head(connection), 1, [made])
    connection.close()
    async with reading(tmp_path / "results.db") as box, box.client() as client:
        found = (await client.get(f"{PATH}/{made.id}")).json()
        unsaid = await client.get(f"{PATH}/{made.id}/messages")
    assert [choice["message"] for choice in found["choices"]] == [
        {"role": "assistant", "content": "hi", "refusal": None, "reasoning_content": "hm"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": json.loads(call),
        },
    ]
    assert found["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert unsaid.status_code == 404


async def test_a_page_over_large_answers_ends_early_and_can_be_continued(
    box: Reading, results: list[Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.stored, "PAGE_BYTES_MAX", 0)
    async with box.client() as client:
        assert len((await client.get(PATH)).json()["data"]) == 1
    assert len(await listed(box, Caller())) == len(KINDS)


async def test_a_search_that_takes_too_long_is_refused(
    box: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.stored, "SEARCH_SECONDS_MAX", -1)
    monkeypatch.setattr(edge_store.stored, "STEPS_BETWEEN_CHECKS", 1)
    async with box.client() as client:
        answer = await client.get(PATH, params={"metadata[k]": "2"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "query_refused")
        monkeypatch.undo()
        assert (await client.get(PATH, params={"metadata[k]": "2"})).json()["data"] == []


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({str(n): "" for n in range(17)}, "metadata"),
        ({"k" * 65: ""}, "metadata.kkk"),
        ({"k": "v" * 513}, "metadata.k"),
        ({"k": 1}, "metadata.k"),
    ],
)
async def test_metadata_over_its_limits_is_400(
    box: Reading, results: list[Result], metadata: dict[str, Any], path: str
) -> None:
    async with box.client() as client:
        answer = await client.post(f"{PATH}/{results[0].id}", json={"metadata": metadata})
        assert answer.status_code == 400
        assert f"`{path}" in answer.json()["error"]["message"]
        for body in (b"{}", b"[]", b'{"metadata": 3}', b"\xff"):
            refused = await client.post(f"{PATH}/{results[0].id}", content=body)
            assert refused.status_code == 400
        large = await client.post(f"{PATH}/{results[0].id}", content=b" " * (1 << 20) + b"  ")
        assert large.status_code == 413


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "order=up",
        "metadata=x",
        "after=nothing",
        "metadata[a]=" + "v" * 513,
    ],
)
async def test_a_page_that_cannot_be_is_refused(box: Reading, query: str) -> None:
    async with box.client() as client:
        answer = await client.get(f"{PATH}?{query}")
    assert answer.status_code == (404 if query.startswith("after") else 400)


async def test_an_answers_own_id_is_looked_for_among_the_newest(
    box: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    for look_back, statuses in ((10, [200, 200, 404]), (5, [404, 200, 404])):
        monkeypatch.setattr(edge_store.stored, "LOOK_BACK", look_back)
        async with box.client() as client:
            names = ("chatcmpl-7", "chatcmpl-8", "chatcmpl-9")
            found = [await client.get(f"{PATH}/{name}") for name in names]
            assert [each.status_code for each in found] == statuses
    async with box.client() as client:
        answer = await client.delete(f"{PATH}/chatcmpl-8")
        assert answer.json()["deleted"] is True
        assert (await client.get(f"{PATH}/chatcmpl-8")).status_code == 404


async def test_the_writer_is_not_asked_for_an_id_that_nobody_knows(
    results: list[Result], tmp_path: Path
) -> None:
    async def change(*_args: Any) -> None:
        raise AssertionError

    async with reading(tmp_path / "results.db", change=change) as box, box.client() as client:
        for name in ("chatcmpl-9", results[6].id):  # nobody's, and no stored completion
            assert (await client.delete(f"{PATH}/{name}")).status_code == 404
            update = await client.post(f"{PATH}/{name}", json={"metadata": {}})
            assert update.status_code == 404
