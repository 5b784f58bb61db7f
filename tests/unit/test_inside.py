"""The daemon's own requests are recorded as anybody's are, in the name of who had them made."""

import asyncio
from pathlib import Path

import pytest
from support.scripted import chat_body, recording, replay

from edge_store.api.inside import Inside
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import KeyRevoked
from edge_store.ids import new_result_id
from edge_store.recorder.caller import Caller, Origin
from edge_store.result import Status

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
PATH = "/v1/chat/completions"


async def test_an_answer_comes_back_whole_and_its_row_says_where_it_came_from(
    tmp_path: Path,
) -> None:
    origin = Origin(result_id=new_result_id(), batch_id="b1", custom_id="line 7")
    async with recording(tmp_path / "results.db", replay([chat_body("Hello")])) as running:
        inside = Inside(running.recorder)
        answer = await inside.ask(PATH, BODY, Caller(tenant="t1"), origin)
    (recorded,) = running.stored()
    assert (answer.status, answer.body) == (200, chat_body("Hello"))
    assert answer.headers["x-edge-store-id"] == origin.result_id == recorded.result.id
    result = recorded.result
    assert (result.tenant, result.batch_id, result.custom_id) == ("t1", "b1", "line 7")


async def test_a_request_that_is_cancelled_is_recorded_as_cut(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def forever(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async with recording(tmp_path / "results.db", replay([], then=forever)) as running:
        asked = asyncio.ensure_future(Inside(running.recorder).ask(PATH, BODY, Caller()))
        await begun.wait()
        asked.cancel()
        await asyncio.wait({asked})
    (recorded,) = running.stored()
    assert recorded.result.status is Status.CANCELLED


async def test_nothing_is_asked_in_the_name_of_a_key_that_is_over(tmp_path: Path) -> None:
    def shut_out(caller: Caller) -> KeyRevoked | None:
        return KeyRevoked("it is revoked") if caller.key_id != "key_2" else None

    async with recording(tmp_path / "results.db", replay([chat_body("Hello")])) as running:
        inside = Inside(running.recorder, shut_out)
        with pytest.raises(KeyRevoked):
            await inside.ask(PATH, BODY, Caller(tenant="t1", key_id="key_1"))
        for key_id in ("key_2", None):  # of one that came while the box was open
            answer = await inside.ask(PATH, BODY, Caller(tenant="t1", key_id=key_id))
            assert answer.status == 200
    assert len(running.stored()) == 2
