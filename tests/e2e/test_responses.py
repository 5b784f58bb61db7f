"""The unmodified ``openai`` SDK's Responses and Conversations against the daemon."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.daemon import Box, DaemonProcess, until

RESULT = slice(len("resp_"), None)
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    "strict": True,
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("responses") / "box", "--engine", "demo")
    with box.serve() as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


def sdk(daemon: DaemonProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with sdk(daemon) as client:
        yield client


def sent(daemon: DaemonProcess, response_id: str) -> Any:
    """The chat that the engine was asked."""
    answer = daemon.get(f"/v1/results/{response_id[RESULT]}")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["request_body"])


def collapsed(events: list[Any]) -> list[str]:
    """The types, each run of the same one as one."""
    types = [event.type for event in events]
    return [kind for place, kind in enumerate(types) if place == 0 or types[place - 1] != kind]


def ended(client: openai.OpenAI, response_id: str) -> Any:
    def look() -> Any:
        found = client.responses.retrieve(response_id)
        return None if found.status in ("queued", "in_progress") else found

    return until(look, "the response has ended")


def test_a_response_is_a_row_and_is_read_back_as_it_was(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    raw = client.responses.with_raw_response.create(
        model="demo",
        instructions="Be kind.",
        input="What is an outbox?",
        temperature=0.5,
        max_output_tokens=400,
        user="u-7",
        metadata={"ward": "b"},
    )
    response = raw.parse()
    row = daemon.get(f"/v1/results/{response.id[RESULT]}").json()
    assert raw.headers["x-edge-store-id"] == row["id"] == response.id[RESULT]
    assert raw.headers["x-edge-store-durability"] == "committed"
    assert int(raw.headers["x-edge-store-seq"]) == row["seq"]
    assert (row["endpoint"], row["status"]) == ("/v1/responses", "completed")
    assert row["outputs"][0]["output_text"] == response.output_text != ""
    assert (row["user_id"], row["metadata"]) == ("u-7", {"ward": "b"})
    assert response.usage is not None
    assert response.usage.output_tokens == row["output_tokens"]
    assert response.metadata == {"ward": "b"}
    assert client.responses.retrieve(response.id) == response
    messages = sent(daemon, response.id)["messages"]
    assert messages[0] == {"role": "system", "content": "Be kind."}
    item: Any
    (item,) = client.responses.input_items.list(response.id)
    assert item.content[0].text == "What is an outbox?"


def test_a_stream_has_the_events_in_order_and_ends_as_it_is_stored(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="demo", input="stream it")
    with client.responses.create(model="demo", input="stream it", stream=True) as stream:
        events: list[Any] = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert collapsed(events) == TEXT_EVENTS
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    final = events[-1].response
    assert final.output_text == text == plain.output_text
    assert final == client.responses.retrieve(final.id)
    differing = {"id", "created_at", "completed_at"}
    plain_json = json.loads(plain.model_dump_json(exclude=differing).replace(plain.id[5:], "ID"))
    final_json = json.loads(final.model_dump_json(exclude=differing).replace(final.id[5:], "ID"))
    assert final_json == plain_json
    with client.responses.retrieve(final.id, stream=True) as again:
        assert list(again) == events
    with client.responses.retrieve(final.id, stream=True, starting_after=7) as again:
        assert list(again) == events[8:]
    with client.responses.retrieve(plain.id, stream=True) as made:
        assert collapsed(list(made)) == TEXT_EVENTS


def test_a_stream_says_that_it_is_committed_before_its_end(daemon: DaemonProcess) -> None:
    body = {"model": "demo", "input": "hold the end", "stream": True}
    answer = daemon.post("/v1/responses", json=body)
    assert answer.headers["x-edge-store-durability"] == "on-end"
    *_, comment, last, rest = answer.text.split("\n\n")
    assert comment.startswith(f": committed id={answer.headers['x-edge-store-id']} seq=")
    assert last.startswith("event: response.completed\n")
    assert rest == ""


def test_a_tool_is_called_and_its_output_answered(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    asked: Any = {"model": "demo", "input": "get_weather of Rome", "tools": [TOOL]}
    with client.responses.create(**asked, stream=True) as stream:
        events: list[Any] = list(stream)
    assert collapsed(events)[2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    final = events[-1].response
    (call,) = final.output
    assert call.name == "get_weather"
    assert set(json.loads(call.arguments)) == {"city"}
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    told = client.responses.create(
        model="demo", input=output, tools=[TOOL], previous_response_id=final.id
    )
    assert told.output_text
    by_hand: Any = [
        {"role": "user", "content": "get_weather of Rome"}, call.to_dict(), *output
    ]  # fmt: skip
    same = client.responses.create(model="demo", input=by_hand, tools=[TOOL])
    assert same.output_text == told.output_text
    messages = sent(daemon, told.id)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id
    assert sent(daemon, same.id)["messages"] == messages


def test_json_that_is_asked_for_is_assessed_in_the_row(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA}}
    response = client.responses.create(model="demo", input="weather of Rome", text=form)
    assert set(json.loads(response.output_text)) == {"city", "degrees"}
    output = daemon.get(f"/v1/results/{response.id[RESULT]}").json()["outputs"][0]
    assert (output["json_state"], output["schema_valid"]) == ("valid", True)


def test_an_answer_that_is_cut_short_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="demo", input="a long story", max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    with client.responses.create(
        model="demo", input="a long story", max_output_tokens=3, stream=True
    ) as stream:
        last: Any = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == response.output_text


def test_a_chain_is_read_from_what_is_stored_until_a_link_is_gone(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    first = client.responses.create(model="demo", instructions="Only now.", input="one")
    second = client.responses.create(model="demo", input="two", previous_response_id=first.id)
    third = client.responses.create(model="demo", input="three", previous_response_id=second.id)
    contents = [message["content"] for message in sent(daemon, third.id)["messages"]]
    assert contents == ["one", first.output_text, "two", second.output_text, "three"]
    assert third.previous_response_id == second.id
    assert (
        daemon.box.scalar("SELECT previous_id FROM results WHERE id = ?", third.id[RESULT])
        == second.id[RESULT]
    )
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="demo", input="four", previous_response_id=third.id)
    assert refused.value.param == "previous_response_id"
    assert client.responses.retrieve(third.id).status == "completed"
    assert daemon.get(f"/v1/results/{first.id[RESULT]}/receipt").json()["state"] == "deleted"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "o"},
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
         "input[0].call_id"),
        ({"background": True, "store": False}, "store"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 64),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"temperature": 3}, "temperature"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name"),
        ({"input": []}, "input"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_path(
    client: openai.OpenAI, given: Any, param: str
) -> None:
    body = {"model": "demo", "input": "hello", **given}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(extra_body=body)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


def test_what_is_not_to_be_stored_is_answered_and_not_there(client: openai.OpenAI) -> None:
    response = client.responses.create(model="demo", input="forget me", store=False)
    assert response.output_text
    assert response.store is False  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_an_engine_that_fails_is_an_error_or_a_failed_response(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.responses.create(model="demo", input="[demo:error]")
    result_id = failed.value.response.headers["x-edge-store-id"]
    assert daemon.get(f"/v1/results/{result_id}").json()["status"] == "failed"
    with client.responses.create(model="demo", input="[demo:die]", stream=True) as stream:
        last: Any = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"
    assert last.response.error.type == "upstream_error"
    assert client.responses.retrieve(last.response.id) == last.response


def test_a_response_in_the_background_is_polled_followed_and_deleted(
    client: openai.OpenAI,
) -> None:
    asked: Any = {"model": "demo", "input": "[demo:slow=5] in time", "background": True}
    queued = client.responses.create(**asked)
    assert (queued.status, queued.output) == ("queued", [])
    done = ended(client, queued.id)
    assert done.status == "completed"
    assert done.output_text.startswith("This is the edge-store demo engine")
    with client.responses.create(**asked, stream=True) as stream:
        seen: list[Any] = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    assert collapsed(seen)[:3] == ["response.created", "response.queued", "response.in_progress"]
    response_id, after = seen[0].response.id, seen[-1].sequence_number
    with client.responses.retrieve(response_id, stream=True, starting_after=after) as rest:
        seen += list(rest)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response == client.responses.retrieve(response_id)
    with client.responses.retrieve(response_id, stream=True) as again:
        assert list(again) == seen
    client.responses.delete(response_id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response_id)


def test_a_response_in_the_background_is_cancelled_whether_it_waits_or_runs(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    asked: Any = {"model": "demo", "input": "[demo:slow=10000] for ever", "background": True}
    created = [client.responses.create(**asked) for _ in range(10)]  # two more than run at once
    for response in created[:8]:
        until(lambda r=response: client.responses.retrieve(r.id).status == "in_progress", "it runs")  # type: ignore[misc]  # a default
    until(lambda: daemon.metrics()["edge_store_in_flight"] == 8, "the engine is at all of them")
    assert client.responses.retrieve(created[-1].id).status == "queued"
    for response in reversed(created):
        assert client.responses.cancel(response.id).status == "cancelled"
        assert client.responses.cancel(response.id).status == "cancelled"
    ids = [response.id[RESULT] for response in created]
    marks = ", ".join("?" * len(ids))
    rows = daemon.box.rows(f"SELECT status, error_type FROM results WHERE id IN ({marks})", *ids)
    assert rows == [("cancelled", "cancelled")] * 8
    with client.responses.create(**asked, stream=True) as stream:
        first: Any = next(stream)
        client.responses.delete(first.response.id)
        ends: Any = list(stream)[-1]
    assert (ends.type, ends.response.status) == ("response.incomplete", "cancelled")
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.response.id)
    foreground = client.responses.create(model="demo", input="now")
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(foreground.id)


def test_a_conversation_is_items_and_responses_in_order(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    items: Any = [{"role": "user", "content": "first"}]
    conversation = client.conversations.create(items=items, metadata={"a": "b"})
    one = client.responses.create(model="demo", input="second", conversation=conversation.id)
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    more: Any = [{"role": "user", "content": [{"type": "input_text", "text": "third"}, image]}]
    added: Any
    (added,) = client.conversations.items.create(conversation.id, items=more).data
    background = client.responses.create(
        model="demo", input="fourth", conversation=conversation.id, background=True
    )
    two = ended(client, background.id)
    assert one.conversation is not None
    assert one.conversation.id == conversation.id

    def texts(**page: Any) -> list[str]:
        found: list[Any] = list(client.conversations.items.list(conversation.id, **page))
        return [item.content[0].text for item in found]

    whole = ["first", "second", one.output_text, "third", "fourth", two.output_text]
    assert texts(order="asc", limit=4) == whole
    assert texts(limit=1) == whole[::-1]
    contents = [message["content"] for message in sent(daemon, two.id)["messages"]]
    assert contents[:3] == whole[:3]
    assert contents[3][1]["image_url"]["url"] == image["image_url"]
    output: Any = one.output[0]
    found: Any = client.conversations.items.retrieve(output.id, conversation_id=conversation.id)
    assert found.content[0].text == one.output_text
    for item_id in (output.id, added.id):
        client.conversations.items.delete(item_id, conversation_id=conversation.id)
        with pytest.raises(openai.NotFoundError):
            client.conversations.items.retrieve(item_id, conversation_id=conversation.id)
    assert texts(order="asc") == [whole[n] for n in (0, 1, 4, 5)]
    client.responses.delete(two.id)
    assert texts(order="asc") == whole[:2]
    changed = client.conversations.update(conversation.id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"}
    assert client.conversations.retrieve(conversation.id) == changed
    continued = client.responses.create(model="demo", input="on", previous_response_id=one.id)
    contents = [message["content"] for message in sent(daemon, continued.id)["messages"]]
    assert contents == ["first", "second", "on"]
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="demo", input="x", conversation=conversation.id)


def test_everything_is_there_after_a_restart(tmp_path: Any) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo")
    with box.serve() as daemon, sdk(daemon) as client:
        items: Any = [{"role": "user", "content": "first"}]
        conversation = client.conversations.create(items=items)
        response = client.responses.create(
            model="demo", input="second", conversation=conversation.id
        )
        with client.responses.create(
            model="demo", input="third", previous_response_id=response.id, stream=True
        ) as stream:
            events: list[Any] = list(stream)
        before = list(client.conversations.items.list(conversation.id))
        assert daemon.stop() == 0
    endless = box.serve(ENGINE__DEMO__TOKEN_DELAY_MS="10000")
    with endless as daemon, sdk(daemon) as client:
        slow = client.responses.create(
            model="demo", input="later", background=True, max_output_tokens=8
        )
        until(lambda: daemon.metrics()["edge_store_in_flight"] == 1, "it is admitted")
        daemon.terminate()
        daemon.logged("stop_requested")
        daemon.terminate()  # without a drain
        assert daemon.wait() == 0
    with box.serve() as daemon, sdk(daemon) as client:
        assert client.responses.retrieve(response.id) == response
        assert list(client.conversations.items.list(conversation.id)) == before
        with client.responses.retrieve(events[-1].response.id, stream=True) as again:
            assert list(again) == events
        done = ended(client, slow.id)
        assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results WHERE error_type = 'shut_down'") == 1
    box.proven()


def test_who_follows_a_response_that_waits_does_not_hold_up_a_stop(tmp_path: Any) -> None:
    box = Box.init(tmp_path / "box", "--engine", "demo", RESPONSES__BACKGROUND_TASKS="1")
    with box.serve() as daemon, sdk(daemon) as client:
        asked: Any = {"model": "demo", "input": "[demo:slow=10000] for ever", "background": True}
        running = client.responses.create(**asked)
        until(lambda: client.responses.retrieve(running.id).status == "in_progress", "it runs")
        with client.responses.create(**asked, stream=True) as stream:
            first: Any = next(stream)
            daemon.terminate()
            daemon.logged("stop_requested")
            daemon.terminate()
            rest: list[Any] = list(stream)
        assert daemon.wait() == 0
    assert [event.type for event in (first, *rest)] == ["response.created", "response.queued"]
    with box.serve() as daemon, sdk(daemon) as client:
        for response_id in (running.id, first.response.id):
            assert client.responses.retrieve(response_id).status in ("queued", "in_progress")
            assert client.responses.cancel(response_id).status == "cancelled"
        assert daemon.stop() == 0


def test_a_responses_id_finds_its_result_and_its_receipt(daemon: DaemonProcess) -> None:
    made = daemon.post("/v1/responses", json={"model": "demo", "input": "hello"}).json()
    ours = made["id"].removeprefix("resp_")
    assert made["id"] == f"resp_{ours}"
    assert daemon.get(f"/v1/results/{made['id']}").json()["id"] == ours
    assert daemon.get(f"/v1/results/{made['id']}/raw").status_code == 200
    told = daemon.get(f"/v1/results/{made['id']}/receipt").json()
    assert (told["id"], told["state"]) == (ours, "committed")
    done = daemon.box.run("receipt", made["id"], "--config", str(daemon.box.directory), "--json")
    assert json.loads(done.stdout)["state"] == "committed", done.stderr


def test_what_the_sdk_asks_for_beside_is_taken(client: openai.OpenAI) -> None:
    made = client.responses.create(model="demo", input="hello", background=True)
    include: Any = ["message.output_text.logprobs"]
    assert client.responses.retrieve(made.id, include=include, include_obfuscation=False).id
    assert list(client.responses.input_items.list(made.id, include=include, order="asc"))
    items: Any = [{"role": "user", "content": "hello"}]
    conversation = client.conversations.create(items=items)
    added = client.conversations.items.create(conversation.id, items=items, include=include)
    assert added.data[0].id is not None
    found = client.conversations.items.retrieve(
        added.data[0].id, conversation_id=conversation.id, include=include
    )
    assert found == added.data[0]
    assert list(client.conversations.items.list(conversation.id, include=include))
