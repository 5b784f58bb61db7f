"""The unmodified ``openai`` SDK lists, retrieves, updates and deletes what it was answered."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.daemon import Box, DaemonProcess

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("stored") / "box", "--engine", "demo")


@pytest.fixture(scope="module")
def daemon(box: Box) -> Iterator[DaemonProcess]:
    with box.serve() as daemon:
        yield daemon
        assert daemon.stop() == 0
        box.proven()


@pytest.fixture(scope="module")
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with sdk(daemon) as client:
        yield client


def sdk(daemon: DaemonProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=60)


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def said(chat: Any) -> list[tuple[Any, ...]]:
    """What a caller reads of each choice."""
    return [
        (
            choice.index,
            choice.finish_reason,
            choice.message.role,
            choice.message.content or None,
            [
                call.model_dump(exclude={"index": True, "function": {"parsed_arguments"}})
                for call in choice.message.tool_calls or ()
            ],
        )
        for choice in chat.choices
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"messages": user("plainly")},
        {"messages": user("three times"), "n": 3},
        {"messages": user("the weather"), "tools": [TOOL], "tool_choice": "required"},
    ],
)
def test_what_is_retrieved_is_what_was_answered(
    client: openai.OpenAI, asked: dict[str, Any], *, stream: bool
) -> None:
    asked = {"model": "demo", "temperature": 0.25, "metadata": {"ward": "b"}, **asked}
    if stream:
        options: Any = {"include_usage": True}
        with client.chat.completions.stream(**asked, stream_options=options) as events:
            chat: Any = events.get_final_completion()
    else:
        chat = client.chat.completions.create(**asked)
    found: Any = client.chat.completions.retrieve(chat.id)
    assert (found.id, found.model, said(found)) == (chat.id, chat.model, said(chat))
    assert chat.usage is not None
    assert found.usage.total_tokens == chat.usage.total_tokens
    assert (found.metadata, found.temperature, found.request_id) == ({"ward": "b"}, 0.25, chat.id)
    assert found.tools == asked.get("tools")
    if not stream:
        assert found.created == chat.created
        assert found.choices == chat.choices


def test_pages_hold_each_completion_once_in_either_order(client: openai.OpenAI) -> None:
    mark = {"test": "pages"}
    ids = [
        client.chat.completions.create(model="demo", messages=user(f"n {n}"), metadata=mark).id
        for n in range(7)
    ]
    client.chat.completions.create(model="demo", messages=user("other"), metadata={"test": "no"})
    listed = [chat.id for chat in client.chat.completions.list(metadata=mark, limit=2)]
    assert listed == ids
    back = client.chat.completions.list(metadata=mark, limit=3, order="desc", model="demo")
    assert [chat.id for chat in back] == ids[::-1]
    after = client.chat.completions.list(metadata=mark, after=ids[4])
    assert [chat.id for chat in after] == ids[5:]
    assert client.chat.completions.list(model="another").data == []
    newest = client.chat.completions.list(order="desc", limit=8).data[1]
    assert newest.id == ids[-1]


def test_updated_metadata_is_what_counts_from_then_on(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    chat = client.chat.completions.create(
        model="demo", messages=user("x"), metadata={"case": "open"}
    )
    updated = client.chat.completions.update(chat.id, metadata={"case": "closed", "by": "me"})
    assert updated.metadata == {"case": "closed", "by": "me"}
    assert client.chat.completions.retrieve(chat.id).metadata == updated.metadata
    assert client.chat.completions.list(metadata={"case": "open"}).data == []
    (found,) = client.chat.completions.list(metadata={"case": "closed"}).data
    assert (found.id, said(found)) == (chat.id, said(chat))
    stored = daemon.box.scalar("SELECT metadata FROM results WHERE id = ?", chat.id)
    assert stored == '{"case":"open"}'
    assert client.chat.completions.update(chat.id, metadata=None).metadata == {}
    with pytest.raises(openai.BadRequestError, match=r"metadata\.case"):
        client.chat.completions.update(chat.id, metadata={"case": "x" * 513})


def test_deleted_completion_is_gone_and_leaves_its_tombstone(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    mark = {"test": "delete"}
    ids = [
        client.chat.completions.create(model="demo", messages=user("x"), metadata=mark).id
        for _ in range(4)
    ]
    for chat in client.chat.completions.list(metadata=mark, limit=1):  # the pages go on after it
        gone = client.chat.completions.delete(chat.id)
        assert (gone.id, gone.deleted, gone.object) == (chat.id, True, "chat.completion.deleted")
    assert client.chat.completions.list(metadata=mark).data == []
    for call in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            call(ids[0])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.update(ids[0], metadata={})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.messages.list(ids[0])
    reasons = daemon.box.rows(
        "SELECT id, what, reason FROM deletions WHERE id IN (?, ?, ?, ?) ORDER BY seq", *ids
    )
    assert reasons == [(each, "result", "forget") for each in ids]


def test_messages_are_those_that_were_sent(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "now?"}]
    sent: Any = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": "Nothing."},
    ]
    chat = client.chat.completions.create(model="demo", messages=sent)
    found: list[Any] = list(client.chat.completions.messages.list(chat.id, limit=2))
    assert [message.role for message in found] == ["system", "user", "assistant"]
    assert [message.content for message in found] == ["Be kind.", None, "Nothing."]
    assert [part.text for part in found[1].content_parts] == ["What ", "now?"]
    assert len({message.id for message in found}) == 3
    back = client.chat.completions.messages.list(chat.id, order="desc", after=found[2].id)
    assert [message.id for message in back] == [found[1].id, found[0].id]


@pytest.mark.parametrize("stream", [False, True])
def test_store_false_keeps_what_was_counted_and_nothing_that_was_said(
    daemon: DaemonProcess, client: openai.OpenAI, *, stream: bool
) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="demo",
        messages=user("keep this from the disk"),
        store=False,
        stream=stream,
        metadata={"test": "off the record"},
    )
    assert stream or "demo" in raw.text
    if stream:
        assert list(raw.parse())  # to its end
    result_id = raw.headers["x-edge-store-id"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(result_id)
    assert client.chat.completions.list(metadata={"test": "off the record"}).data == []
    found = daemon.get(f"/v1/results/{result_id}").json()
    assert (found["status"], found["finish_reason"]) == ("completed", "stop")
    assert found["output_tokens"] > 0
    assert found["outputs"] == []
    assert found["input_text"] is None
    assert found["request_body"] == found["response_body"] == ""
    for name in ("results.db", "results.db-wal"):
        assert b"keep this from the disk" not in (daemon.box.directory / name).read_bytes()


def test_completion_of_another_kind_or_fate_is_in_no_list(
    daemon: DaemonProcess, client: openai.OpenAI
) -> None:
    text = client.completions.create(model="demo", prompt="once")
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="demo", messages=user("[demo:error]"))
    listed = {chat.id for chat in client.chat.completions.list(limit=100)}
    for each in (text.id, failed.value.response.headers["x-edge-store-id"]):
        assert each not in listed
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(each)


def test_completions_are_there_after_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    box = Box.init(tmp_path_factory.mktemp("killed") / "box", "--engine", "demo")
    with box.serve() as daemon, sdk(daemon) as client:
        chats = [client.chat.completions.create(model="demo", messages=user("a")) for _ in range(3)]
        client.chat.completions.update(chats[0].id, metadata={"kept": "yes"})
        client.chat.completions.delete(chats[1].id)
        daemon.kill()
    with box.serve() as daemon, sdk(daemon) as client:
        found = list(client.chat.completions.list(limit=1))
        assert [chat.id for chat in found] == [chats[0].id, chats[2].id]
        assert found[0].metadata == {"kept": "yes"}
        assert [said(chat) for chat in found] == [said(chats[0]), said(chats[2])]
