"""With ``store: false`` the row counts what there was, and holds nothing of what was said."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.scripted import (
    DEADLINE_S,
    DONE,
    Caller,
    Told,
    chat_body,
    chat_chunk,
    event,
    recording,
    replay,
)

from edge_store.errors import EngineCrashed, IdempotencyConflict, InvalidRequest
from edge_store.result import Recorded, Status

KEY = (b"Idempotency-Key", b"once")
SECRET = "sphinx of black quartz"
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": SECRET}],
    "store": False,
    "metadata": {"ward": "b"},
    "temperature": 0.5,
}
STREAM = [event(chat_chunk(SECRET)), event(chat_chunk(finish="stop")), DONE]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


def only(recorded: list[Recorded]) -> Recorded:
    (one,) = recorded
    return one


def nothing_said(recorded: Recorded, path: Path) -> None:
    assert recorded.result.outputs == ()
    assert recorded.result.content.input_text is None
    assert recorded.result.content.request_body == recorded.result.content.response_body == b""
    for each in path.parent.glob(f"{path.name}*"):
        assert SECRET.encode() not in each.read_bytes()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_caller_has_its_answer_and_the_row_its_numbers(
    path: Path, *, stream: bool
) -> None:
    chunks = STREAM if stream else [chat_body(SECRET)]
    async with recording(path, replay(chunks, streamed=stream)) as running:
        caller = await running.ask({**ASKED, "stream": stream})
        found = only(running.stored())
        nothing_said(found, path)
    assert SECRET.encode() in caller.body
    assert (found.result.status, found.result.finish_reason) == (Status.COMPLETED, "stop")
    assert found.result.metadata == '{"ward":"b"}'
    assert '"store":false' in found.result.params
    assert found.result.output_tokens == (None if stream else 2)


async def test_what_an_engine_quotes_in_its_error_is_not_kept(path: Path) -> None:
    refusal = b'{"error": {"message": "cannot: %s"}}' % SECRET.encode()
    async with recording(path, replay([refusal], status=400)) as running:
        caller = await running.ask(ASKED)
        found = only(running.stored())
        nothing_said(found, path)
    assert caller.body == refusal
    assert (found.result.error_type, found.result.error_message) == ("engine_refused", None)


async def test_nothing_is_kept_of_what_was_cut(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        asking = asyncio.create_task(running.ask({**ASKED, "stream": True}))
        await told.begun(1)
        running.recorder.abort_all(EngineCrashed("the engine died"))
        await asking
        found = only(running.stored())
        nothing_said(found, path)
    assert (found.result.status, found.result.error_message) == (Status.FAILED, None)
    assert found.result.error_type == EngineCrashed.code


async def test_who_waits_for_it_has_the_answer_and_who_comes_later_has_none(path: Path) -> None:
    told = Told()
    async with recording(path, told) as running:
        tasks = [asyncio.create_task(running.ask(ASKED, headers=[KEY])) for _ in range(2)]
        run = await told.begun(1)
        async with asyncio.timeout(DEADLINE_S):
            while running.counted("attached") < 1:  # noqa: ASYNC110  (a counter tells nobody)
                await asyncio.sleep(0)
        run.set_result(replay([chat_body(SECRET)]))
        callers: list[Caller] = await asyncio.gather(*tasks)
        assert [caller.body for caller in callers] == [chat_body(SECRET)] * 2
        with pytest.raises(IdempotencyConflict, match="without its body"):
            await running.ask(ASKED, headers=[KEY])
        assert len(running.stored()) == 1


async def test_store_must_be_a_boolean(path: Path) -> None:
    async with recording(path, replay([chat_body("x")])) as running:
        with pytest.raises(InvalidRequest, match="`store`"):
            await running.ask({**ASKED, "store": "no"})
