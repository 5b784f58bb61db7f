"""SIGKILL while responses run in the background: each was accepted, so each ends, once."""

from pathlib import Path
from typing import Any

import openai
from support.daemon import Box, DaemonProcess, until

NUMBER = 24


def sdk(daemon: DaemonProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60)


def statuses(client: openai.OpenAI, ids: list[str]) -> list[Any]:
    return [client.responses.retrieve(response_id).status for response_id in ids]


def test_responses_in_the_background_outlive_a_sigkill_and_run_to_completion_once(
    tmp_path: Path,
) -> None:
    """Every other one takes so long that none of those has ended when the kill comes."""
    box = Box.init(tmp_path / "box", "--engine", "demo")
    prompts = [f"{'' if n % 2 else '[demo:slow=10] '}number {n}" for n in range(NUMBER)]
    with box.serve(ENGINE__DEMO__TOKEN_DELAY_MS="10000") as daemon, sdk(daemon) as client:
        asked: Any = {"model": "demo", "background": True}
        conversations = [client.conversations.create().id for _ in range(NUMBER)]
        ids = [
            client.responses.create(input=prompt, conversation=conversation, **asked).id
            for prompt, conversation in zip(prompts, conversations, strict=True)
        ]
        until(lambda: "completed" in statuses(client, ids), "one has ended")
        before = {
            response_id: client.responses.retrieve(response_id)
            for response_id, status in zip(ids, statuses(client, ids), strict=True)
            if status == "completed"
        }
        daemon.kill()
    assert 0 < len(before) < NUMBER
    with box.serve() as daemon, sdk(daemon) as client:
        until(lambda: set(statuses(client, ids)) == {"completed"}, "all have ended")
        for response_id, response in before.items():
            assert client.responses.retrieve(response_id) == response
        for prompt, conversation in zip(prompts, conversations, strict=True):
            items: list[Any] = list(client.conversations.items.list(conversation, order="asc"))
            assert [item.role for item in items] == ["user", "assistant"]
            assert items[0].content[0].text == prompt
        assert daemon.stop() == 0
    stored = box.rows("SELECT id FROM results WHERE endpoint = '/v1/responses'")
    assert sorted(f"resp_{row[0]}" for row in stored) == sorted(ids)
    box.proven()


def run_until_killed(box: Box, starts: int, ids: list[str]) -> None:
    """One boot, cut once the response has started for this time."""
    with box.serve() as daemon, sdk(daemon) as client:
        if not ids:
            prompt = "[demo:slow=5000] for ever"
            ids.append(client.responses.create(model="demo", input=prompt, background=True).id)
        count = "SELECT count(*) FROM response_events WHERE event = 'started'"
        until(lambda: box.scalar(count) == starts, f"it has started {starts} times")
        daemon.kill()


def test_a_response_that_is_cut_by_two_crashes_is_not_tried_a_third_time(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    ids: list[str] = []
    for starts in (1, 2):
        run_until_killed(box, starts, ids)
    with box.serve() as daemon, sdk(daemon) as client:
        until(lambda: statuses(client, ids) == ["failed"], "it has failed")
        failed: Any = client.responses.retrieve(ids[0])
        assert failed.error.type == "shut_down"
        with client.responses.retrieve(ids[0], stream=True) as stream:
            last: Any = list(stream)[-1]
        assert (last.type, last.response) == ("response.failed", failed)
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results") == 0
