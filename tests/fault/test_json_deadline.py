"""Many hostile choices in one request: one deadline for all, and a stop that cuts it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from support.scripted import Recording, recording, replay

from edge_store.config import RepairSection
from edge_store.errors import ShutDown
from edge_store.jsonrepair import JsonWorkers
from edge_store.result import JsonState, Output, Status

# json-repair needs more than 15 s of each, or five minutes of all: ``ask`` waits for one
HOSTILE = '{"a": "' + "x" * ((1 << 20) - 8)
REQUEST: dict[str, Any] = {"messages": [], "n": 20, "response_format": {"type": "json_object"}}


def answer(texts: list[str]) -> bytes:
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for n, text in enumerate(texts)
    ]
    return json.dumps({"id": "engine", "model": "m", "choices": choices}).encode()


def stored(running: Recording) -> tuple[Status, tuple[Output, ...]]:
    (recorded,) = running.stored()
    return recorded.result.status, recorded.result.outputs


async def test_all_choices_of_a_request_share_one_deadline(tmp_path: Path) -> None:
    script = replay([answer(['{"a": 1}', *[HOSTILE] * 19])])
    async with (
        JsonWorkers(RepairSection(deadline_s=0.1)) as workers,
        recording(tmp_path / "results.db", script, json_workers=workers) as running,
    ):
        caller = await running.ask(REQUEST)
        status, outputs = stored(running)
    assert (caller.status, status) == (200, Status.COMPLETED)
    assert outputs[0].json_state is JsonState.VALID
    assert {output.json_state for output in outputs[1:]} == {JsonState.INVALID}
    assert all(output.output_text == HOSTILE for output in outputs[1:])
    assert outputs[-1].repair_log == "not assessed: the choices of this request took over 1.6 s"


async def test_a_stop_cuts_the_assessment_and_keeps_the_answer(tmp_path: Path) -> None:
    script = replay([answer(['{"a": 1}', *[HOSTILE] * 19])])
    async with (
        JsonWorkers(RepairSection(deadline_s=60)) as workers,
        recording(tmp_path / "results.db", script, json_workers=workers) as running,
    ):
        asking = asyncio.create_task(running.ask(REQUEST))
        await running.engine.called.wait()
        await asyncio.sleep(0.2)  # into the first hostile text; if not yet, the stop is only easier
        assert not asking.done()
        running.recorder.abort_all(ShutDown("the daemon stopped"))
        caller = await asking
        status, outputs = stored(running)
    assert (caller.status, status) == (200, Status.COMPLETED), "the answer was whole"
    assert outputs[0].json_state is JsonState.VALID
    assert {output.repair_log for output in outputs[1:]} == {"not assessed: the daemon stopped"}
    assert {output.json_state for output in outputs[1:]} == {JsonState.INVALID}
