"""The wall clock is set while requests run: ids, order and durations do not notice."""

import asyncio
import time
from pathlib import Path

import pytest
from support.scripted import chat_body, chat_chunk, event, recording, replay

import edge_store.clock
import edge_store.ids
import edge_store.recorder.boot
from edge_store.engine import Receive, Scope, Send
from edge_store.ids import Uuid7

STEPS_S = (3600, -7200, 86_400 * 365, -1_700_000_000)  # the last: as with no RTC, back to 1972
GENERATES_S = 0.03
SLACK_MS = 60_000.0  # of a busy machine; a step of the clock is an hour at the least


class WallClock:
    """``time.time_ns`` with a step that may be set; the monotonic clock is the real one."""

    def __init__(self) -> None:
        self.step_s = 0
        self._real = time.time_ns

    def __call__(self) -> int:
        return self._real() + self.step_s * 10**9


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr(time, "time_ns", clock)
    monkeypatch.setattr(edge_store.ids, "_uuid7", Uuid7())  # else later tests' ids are a year ahead
    return clock


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_durations_ids_and_order_survive_each_step_of_the_clock(
    tmp_path: Path, wall: WallClock, *, streamed: bool
) -> None:
    steps = iter(STEPS_S)

    async def step(_scope: Scope, _receive: Receive, send: Send) -> None:
        wall.step_s = next(steps)
        await asyncio.sleep(GENERATES_S)
        body = event(chat_chunk(finish="stop")) if streamed else chat_body("later")
        await send({"type": "http.response.body", "body": body, "more_body": True})

    chunks = [event(chat_chunk("Hel"))] if streamed else []
    script = replay(chunks, streamed=streamed, then=step)
    async with recording(tmp_path / "results.db", script) as running:
        for _ in STEPS_S:
            await running.ask({"messages": [{"role": "user", "content": "x"}], "stream": streamed})
    stored = [recorded.result for recorded in running.stored()]
    assert [result.boot_seq for result in stored] == list(range(1, len(STEPS_S) + 1))
    for result in stored:
        assert GENERATES_S * 900 <= result.latency_ms < SLACK_MS
        assert result.completed_at - result.created_at == round(result.latency_ms)
        if streamed:
            assert result.ttft_ms is not None
            assert 0 <= result.ttft_ms <= result.latency_ms
    ids = [result.id for result in stored]
    assert ids == sorted(set(ids)), "an id went back with the clock"
    moments = [result.created_at for result in stored]
    assert moments != sorted(moments), "the clock did go back, or this proves nothing"


@pytest.mark.parametrize("is_synced", [True, False])
async def test_a_boot_and_its_results_say_whether_the_clock_was_synchronized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_synced: bool
) -> None:
    for module in (edge_store.recorder.boot, edge_store.clock):
        monkeypatch.setattr(module, "is_clock_synced", lambda: is_synced)
    async with recording(tmp_path / "results.db", replay([chat_body("x")])) as running:
        await running.ask()
    (recorded,) = running.stored()
    assert running.boot.clock_synced is is_synced
    assert recorded.result.clock_synced is is_synced


async def test_results_say_from_when_on_the_clock_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synced(*, is_synced: bool) -> None:
        for module in (edge_store.recorder.boot, edge_store.clock):
            monkeypatch.setattr(module, "is_clock_synced", lambda: is_synced)

    synced(is_synced=False)
    bodies = [chat_body(name) for name in "abc"]
    async with recording(tmp_path / "results.db", replay(bodies)) as running:
        await running.ask()
        synced(is_synced=True)
        await running.ask()
        synced(is_synced=False)  # its server is away: the clock is right for all that
        await running.ask()
    flags = [recorded.result.clock_synced for recorded in running.stored()]
    assert flags == [False, True, True]
