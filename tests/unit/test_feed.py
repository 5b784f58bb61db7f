"""GET /v1/changes: everything that is committed, in order, as soon as it is, to who may see it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.asgi import DEADLINE_S, Call
from support.reading import EVERYBODY, Reading, reading, tenant
from support.records import DEVICE, make_result, new_database

import edge_store.api.feed
from edge_store.errors import KeyRevoked
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot
from edge_store.recorder.caller import Caller
from edge_store.result import Boot, Result
from edge_store.sql import sql
from edge_store.sqlite import Connection

PATH = "/v1/changes"
EVENTS = [(b"accept", b"text/event-stream")]


class Shutting:
    """Lets everybody go on until it is told."""

    def __init__(self) -> None:
        self.error: KeyRevoked | None = None

    def __call__(self, _caller: Caller) -> KeyRevoked | None:
        return self.error


class Box:
    """The routes, and commits that are told to them as the writer does."""

    def __init__(self, box: Reading, boot: Boot, shutting: Shutting) -> None:
        self.shutting = shutting
        self.reading = box
        self.boot = boot
        self.number = 0

    async def commit(self, count: int = 1, **changes: Any) -> list[Result]:
        first = self.number + 1
        self.number += count
        made = [make_result(n, self.boot.boot_id, **changes) for n in range(first, self.number + 1)]
        seq = await self.reading.writer.run(self._write, made)
        self.reading.commits.advance(seq)
        return made

    def _write(self, connection: Connection, made: list[Result]) -> int:
        return write_batch(connection, self.boot, read_head(connection), self.number, made).head.seq

    async def restore(self) -> None:
        """What a restored box is from its next start on."""

        def begin(connection: Connection) -> Boot:
            row = {"timeline": "restored", "started_at": 0, "reason": "restored"}
            connection.execute(sql("insert_timeline"), row)
            return begin_boot(
                connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
            )

        self.boot = await self.reading.writer.run(begin)
        self.number = 0

    def follow(self, caller: Caller = EVERYBODY, query: str = "", **headers: str) -> Call:
        given = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        app = self.reading.named(caller)
        return Call(app, f"{PATH}?{query}", method="GET", headers=[*EVENTS, *given], body=b"")


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    connection, boot = new_database(tmp_path / "results.db")
    connection.close()
    shutting = Shutting()
    async with reading(tmp_path / "results.db", shut_out=shutting) as found:
        yield Box(found, boot, shutting)


async def events(call: Call, count: int) -> list[dict[str, Any]]:
    """The next so many results of a tail, each under its seq."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        message = await call.next()
        for text in message.get("body", b"").decode().split("\n\n"):
            if text.startswith("id: "):
                name, data = text.split("\n")
                found.append(json.loads(data.removeprefix("data: ")))
                assert name == f"id: {found[-1]['seq']}"
    assert len(found) == count
    return found


async def test_lines_come_in_order_and_say_where_to_go_on(box: Box) -> None:
    made = await box.commit(5)
    found: list[str] = []
    after = "0"
    async with box.reading.client() as client:
        for expected in (2, 2, 1, 0):
            answer = await client.get(PATH, params={"after_seq": after, "limit": 2})
            assert answer.headers["content-type"] == "application/x-ndjson"
            lines = [json.loads(line) for line in answer.text.splitlines()]
            assert len(lines) == expected
            found += [line["id"] for line in lines]
            after = answer.headers["x-edge-store-next-seq"]
            assert {line["timeline"] for line in lines} <= {box.boot.timeline}
            assert answer.headers["x-edge-store-timeline"] == box.boot.timeline
    assert found == [result.id for result in made]
    assert after == "5"


async def test_a_poll_waits_for_what_it_wants_and_no_longer(box: Box) -> None:
    await box.commit(2)
    async with box.reading.client(tenant("a")) as client:
        asking = asyncio.create_task(client.get(PATH, params={"after_seq": 0, "wait_s": 60}))
        await box.commit(tenant="b")  # is not for it
        await asyncio.sleep(0)
        (mine,) = await box.commit(tenant="a")
        async with asyncio.timeout(DEADLINE_S):
            answer = await asking
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == [mine.id]
        assert answer.headers["x-edge-store-next-seq"] == "4"
        empty = await client.get(PATH, params={"after_seq": 4, "wait_s": 1})
        assert (empty.status_code, empty.content) == (200, b"")


async def test_a_tail_has_what_was_and_what_comes(box: Box) -> None:
    made = await box.commit(3)
    async with box.follow(query="after_seq=1") as call:
        assert [e["id"] for e in await events(call, 2)] == [r.id for r in made[1:]]
        more = await box.commit(250)
        assert [e["id"] for e in await events(call, 250)] == [r.id for r in more]
        assert call.headers[b"content-type"] == b"text/event-stream"
        assert call.headers[b"x-edge-store-timeline"] == box.boot.timeline.encode()
    async with box.follow(last_event_id="252", query="after_seq=1") as call:
        assert [e["seq"] for e in await events(call, 1)] == [253]
    async with box.follow() as call:  # from now on
        await call.next()
        (newest,) = await box.commit()
        assert [e["id"] for e in await events(call, 1)] == [newest.id]


async def test_a_tenants_tail_has_its_own_alone(box: Box) -> None:
    async with box.follow(tenant("a"), "after_seq=0") as call:
        await call.next()
        await box.commit(tenant="b")
        await box.commit(tenant=None)
        (mine,) = await box.commit(tenant="a")
        assert [e["id"] for e in await events(call, 1)] == [mine.id]
        assert b'"tenant":"b"' not in call.body


async def test_a_tail_ends_with_the_daemon(box: Box) -> None:
    await box.commit()
    async with box.follow(query="after_seq=0") as call:
        await events(call, 1)
        box.reading.commits.end()
        await call.ended()
        assert call.is_complete
    async with box.follow(query="after_seq=0") as call:  # one that comes while it drains
        await call.ended()
        assert b"id: 1\n" in call.body


@pytest.fixture
def one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.api.feed, "LISTENERS_MAX", 1)


@pytest.mark.usefixtures("one_place")
async def test_who_takes_nothing_is_cut_off_and_its_place_is_free(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_store.api.feed, "SLOW_S", 0.05)
    await box.commit()
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:  # as a server whose buffer for this connection is full
            await asyncio.Event().wait()

    scope = {**box.follow(query="after_seq=0")._scope}
    async with asyncio.timeout(DEADLINE_S):
        await box.reading.named()(scope, receive, send)
    assert [message.get("more_body") for message in sent] == [None, True, True]
    async with box.follow(query="after_seq=0") as call:
        await events(call, 1)


@pytest.mark.usefixtures("one_place")
async def test_one_follower_too_many_is_told_to_come_later(box: Box) -> None:
    async with box.follow() as call, box.reading.client() as client:
        await call.next()
        for headers in ({"accept": "text/event-stream"}, {}):
            answer = await client.get(f"{PATH}?wait_s=9", headers=headers)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    async with box.reading.client() as client:
        assert (await client.get(f"{PATH}?wait_s=1")).status_code == 200


async def test_a_restored_box_is_told_from_what_it_was(box: Box) -> None:
    before = box.boot.timeline
    await box.commit(3)
    async with box.reading.client() as client:
        known: dict[str, str] = {"after_seq": "3", "timeline": before}
        assert (await client.get(PATH, params=known)).status_code == 200
        await box.restore()
        for params in (known, {"after_seq": "9"}):
            answer = await client.get(PATH, params=params)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (409, "timeline_changed")
            assert "after_seq=3&timeline=restored" in error["hint"]
        (after,) = await box.commit()
        answer = await client.get(PATH, params=known)
        assert "after_seq=3&timeline=restored" in answer.json()["error"]["hint"]
        answer = await client.get(PATH, params={"after_seq": 3, "timeline": "restored"})
        (line,) = answer.text.splitlines()
        assert (json.loads(line)["id"], json.loads(line)["timeline"]) == (after.id, "restored")


@pytest.mark.parametrize("query", ["after_seq=x", "limit=0", "wait_s=61", "status=x"])
async def test_what_cannot_be_asked_is_400(box: Box, query: str) -> None:
    async with box.reading.client() as client:
        assert (await client.get(f"{PATH}?{query}")).status_code == 400
        for last in ("1.5", "-1", "", "9" * 5000):
            events = {"accept": "text/event-stream", "last-event-id": last}
            assert (await client.get(PATH, headers=events)).status_code == 400


async def test_who_follows_is_told_nothing_more_once_its_key_is_over(box: Box) -> None:
    await box.commit()
    async with box.follow(query="after_seq=0") as call, box.reading.client() as client:
        await events(call, 1)
        asking = asyncio.create_task(client.get(PATH, params={"after_seq": 1, "wait_s": 60}))
        await asyncio.sleep(0.5)  # it has read that there is nothing, and waits
        box.shutting.error = KeyRevoked("the API key is not valid here")
        (after,) = await box.commit()
        async with asyncio.timeout(DEADLINE_S):
            answer = await asking
            await call.ended()
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_revoked")
        assert after.id.encode() not in call.body


async def test_a_place_beyond_the_end_is_called_so_where_nothing_was_restored(box: Box) -> None:
    await box.commit(3)
    async with box.reading.client() as client:
        for params in ({"after_seq": "4"}, {"after_seq": "4", "timeline": box.boot.timeline}):
            answer = await client.get(PATH, params=params)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "after_seq")
            assert "newest result here is 3" in error["message"]
        answer = await client.get(PATH, params={"timeline": "another"})
        assert answer.status_code == 409
        assert "another database" in answer.json()["error"]["message"]
        await box.restore()
        known: dict[str, str] = {"after_seq": "4", "timeline": "restored"}
        assert (await client.get(PATH, params=known)).status_code == 400, "it knows of the restore"
