"""No text that a rule finds is in any file of a box, whichever way it came: every route that takes
text is called, with another secret at each place that has one.
"""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.batches import ended, line, submit, text_of
from support.daemon import Box, DaemonProcess, until
from support.files import files_in

CHAT = "/v1/chat/completions"
RULES = """
[privacy]
detectors = ["email", "phone", "credit_card", "iban", "ipv4", "ipv6", "api_key"]

[privacy.rules]
ticket = 'TICKET-q[0-9]+x'
"""


class Secrets:
    """Makes secrets, and remembers at which place each was."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}  # what is looked for, and where it was sent
        self._number = count(1000)

    def __call__(self, place: str) -> str:
        number = next(self._number)
        mark = f"q{number}x"
        self.places[mark] = place
        return f"{mark}@hidden.example" if number % 2 else f"TICKET-{mark}"

    def left_in(self, data: bytes) -> list[str]:
        return [place for mark, place in self.places.items() if mark.encode() in data]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    box = Box.init(tmp_path / "box")
    settings = box.directory / "edge-store.toml"
    before, _, after = settings.read_text().partition("[privacy]")
    after = after.partition("\n[privacy.rules]")[2].partition("\n[")[2]
    settings.write_text(before + RULES + "[" + after)
    return box


def files_of(box: Box, *but: str) -> dict[str, bytes]:
    """Each file of the box but the settings and these."""
    return {
        str(path.relative_to(box.directory)): content
        for path, content in files_in(box.directory).items()
        if path.name not in ("edge-store.toml", *but)
    }


def require_clean(box: Box, secrets: Secrets, *but: str) -> None:
    for name, data in files_of(box, *but).items():
        assert secrets.left_in(data) == [], name


def until_nothing_is_held(box: Box) -> None:
    """All have been asked: what is held is let go of right after the end is told."""
    until(lambda: not list((box.directory / "held").iterdir()), "nothing is held")


def asked(daemon: DaemonProcess, path: str, body: Any, **options: Any) -> Any:
    """The whole answer, whatever it is; a dict is sent as JSON, bytes as they are."""
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    return daemon.post(path, **sent, **options)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def tool(say: Secrets, place: str) -> dict[str, Any]:
    """A function whose arguments the demo engine fills with what is asked for."""
    only = {"type": "string", "enum": [say(f"{place}: enum, and arguments")]}
    return {
        "name": "look",
        "description": say(f"{place}: description"),
        "parameters": {"type": "object", "properties": {"at": only}, "required": ["at"]},
    }


def escaped(text: str) -> str:
    """JSON with escapes where a reader sees what a rule looks for."""
    return text.replace("x@", "x\\u0040").replace("T-q", "T\\u002dq")


def chats(say: Secrets, *, stream: bool) -> Iterator[dict[str, Any] | bytes]:
    how = "streamed" if stream else "plain"
    plain = {"model": "demo", "stream": stream}
    yield {
        **plain,
        "messages": [
            {"role": "system", "content": say(f"{how} chat: system")},
            {"role": "user", "name": say(f"{how} chat: name"), "content": "hello"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {
                    "name": "f",
                    "arguments": json.dumps({"a": json.dumps({"b": say(f"{how} chat: call")})}),
                }},
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": say(f"{how} chat: tool message")},
            *user(say(f"{how} chat: user, and the echo")),
        ],
        "user": say(f"{how} chat: user id"),
        "metadata": {"k": say(f"{how} chat: metadata"), say(f"{how} chat: key"): "v"},
        "stop": [say(f"{how} chat: stop")],
    }  # fmt: skip
    yield {**plain, "messages": user("x"), "model": say(f"{how} chat: model")}
    yield {
        **plain,
        "messages": user("call it"),
        "tools": [{"type": "function", "function": tool(say, f"{how} chat: tool")}],
        "tool_choice": "required",
    }
    yield {
        **plain,
        "messages": user(say(f"{how} chat: echo in JSON")),
        "response_format": {"type": "json_object"},
    }
    yield {**plain, "messages": user("[demo:error] " + say(f"{how} chat: refused"))}
    hidden = say(f"{how} chat: escaped")
    inner = escaped(json.dumps({"a": hidden, "b": escaped(json.dumps({"c": hidden}))}))
    body = json.dumps({**plain, "messages": user(f"{hidden} ```json {inner}``` and {inner[:-9]}")})
    yield escaped(body).encode()
    yield {**plain, "messages": say(f"{how} chat: messages that are none")}


def generations(say: Secrets, *, stream: bool) -> Iterator[tuple[str, Any]]:
    how = "streamed" if stream else "plain"
    for body in chats(say, stream=stream):
        yield CHAT, body
    yield "/v1/completions", {
        "model": "demo", "stream": stream, "prompt": say(f"{how} completion"),
        "suffix": say(f"{how} completion: suffix"), "user": say(f"{how} completion: user"),
    }  # fmt: skip
    yield "/generate", {
        "stream": stream, "text": say(f"{how} generate"), "rid": say(f"{how} generate: rid"),
        "sampling_params": {"stop": say(f"{how} generate: stop")},
    }  # fmt: skip
    yield "/v1/messages", {
        "model": "demo", "stream": stream, "max_tokens": 60,
        "system": say(f"{how} message: system"),
        "messages": user(say(f"{how} message")), "metadata": {"user_id": say(f"{how} message: id")},
    }  # fmt: skip
    yield "/api/chat", {"model": "demo", "stream": stream, "messages": user(say(f"{how} ollama"))}
    yield "/api/generate", {
        "model": "demo", "stream": stream, "prompt": say(f"{how} ollama: prompt"),
        "system": say(f"{how} ollama: system"),
    }  # fmt: skip
    if not stream:
        yield "/v1/embeddings", {"model": "demo", "input": [say("embedding"), "x"]}


def test_what_generates_leaves_no_secret(box: Box) -> None:
    say = Secrets()
    with box.serve() as daemon:
        for stream in (False, True):
            for path, body in generations(say, stream=stream):
                asked(daemon, path, body)
        for stream in (False, True):  # and the same again under its key
            body = {"messages": user(say("with a key")), "model": "demo", "stream": stream}
            for _ in range(2):
                asked(daemon, CHAT, body, headers={"Idempotency-Key": f"k-{stream}"})
        asked(
            daemon,
            CHAT,
            {"messages": user("x")},
            headers={"traceparent": f"0-{say('trace'):>32}-0-0"},
        )
        daemon.get(
            "/v1/results", params={"user": say("query"), f"metadata[{say('query key')}]": "x"}
        )
        daemon.get(f"/v1/responses/{say('path')}")
        require_clean(box, say)
        assert daemon.stop() == 0
        assert say.left_in("\n".join([*map(str, daemon.log), *daemon.raw]).encode()) == []
    require_clean(box, say)
    unmarked = "SELECT count(*) FROM results WHERE privacy IS NULL AND status = 'completed'"
    assert box.scalar(unmarked) == 1  # the one with only a trace id that is none
    assert box.scalar("SELECT count(*) FROM results WHERE privacy LIKE '%failed%'") == 0
    assert box.scalar("SELECT count(*) FROM bodies WHERE response_body LIKE '%REDACTED%'") > 5
    assert box.proven().faults == ()


def responses(say: Secrets, daemon: DaemonProcess, **more: Any) -> dict[str, Any]:
    """One of each kind of text in a response."""
    how = str(sorted(more))
    call_id = say(f"response {how}: call id")
    sent = {
        "model": "demo",
        "instructions": say(f"response {how}: instructions"),
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": say(f"response {how}")}]},
            {"type": "function_call", "call_id": call_id, "name": "f",
             "arguments": json.dumps({"a": say(f"response {how}: arguments")})},
            {"type": "function_call_output", "call_id": call_id,
             "output": say(f"response {how}: output")},
            {"role": "user", "content": say(f"response {how}: the echo")},
        ],
        "metadata": {"k": say(f"response {how}: metadata")},
        "user": say(f"response {how}: user"),
        "prompt_cache_key": say(f"response {how}: cache key"),
        "tools": [{"type": "function", **tool(say, f"response {how}: tool")}],
        "tool_choice": "none",
        **more,
    }  # fmt: skip
    answer = daemon.post("/v1/responses", json=sent)
    assert answer.status_code == 200, answer.text
    if not more.get("stream"):
        found: dict[str, Any] = answer.json()
        return found
    last = [text for text in answer.text.splitlines() if text.startswith("data: {")][-1]
    streamed: dict[str, Any] = json.loads(last.removeprefix("data: "))["response"]
    return streamed


def settled(daemon: DaemonProcess, response_id: str) -> dict[str, Any]:
    def found() -> Any:
        shown = daemon.get(f"/v1/responses/{response_id}").json()
        return shown if shown["status"] not in ("queued", "in_progress") else None

    shown: dict[str, Any] = until(found, f"{response_id} has ended")
    return shown


def test_responses_and_conversations_leave_no_secret(box: Box) -> None:
    say = Secrets()
    with box.serve() as daemon:
        first = responses(say, daemon)
        assert "@hidden" in first["output"][0]["content"][0]["text"] or "TICKET" in str(first)
        responses(say, daemon, stream=True)
        responses(say, daemon, store=False)
        later = [responses(say, daemon, background=True)["id"]]
        later.append(responses(say, daemon, background=True, stream=True)["id"])
        for response_id in later:
            assert settled(daemon, response_id)["status"] == "completed"
            daemon.get(f"/v1/responses/{response_id}", params={"stream": "true"})
        chained = responses(say, daemon, previous_response_id=first["id"])
        assert daemon.get(f"/v1/responses/{chained['id']}").status_code == 200
        held = daemon.post("/v1/conversations", json={
            "items": [{"role": "user", "content": say("conversation: first item")}],
            "metadata": {"k": say("conversation: metadata")},
        }).json()  # fmt: skip
        one = f"/v1/conversations/{held['id']}"
        daemon.post(one, json={"metadata": {say("conversation: key"): say("conversation: later")}})
        daemon.post(f"{one}/items", json={"items": [
            {"role": "user", "content": say("conversation: item")},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": say("reasoning")}]},
        ]})  # fmt: skip
        responses(say, daemon, conversation=held["id"])
        settled(daemon, responses(say, daemon, conversation=held["id"], background=True)["id"])
        responses(say, daemon, text={"format": {
            "type": "json_schema", "name": "n", "description": say("response: schema"),
            "schema": {"type": "object", "title": say("response: title")},
        }})  # fmt: skip
        shown = daemon.get(f"{one}/items", params={"limit": 100}).text
        assert say.left_in(shown.encode()) == []
        assert "[REDACTED:" in shown
        until_nothing_is_held(box)
        require_clean(box, say)
        assert daemon.stop() == 0
        assert say.left_in("\n".join([*map(str, daemon.log), *daemon.raw]).encode()) == []
    require_clean(box, say)
    assert box.proven().faults == ()


def test_a_chain_goes_on_with_what_redaction_leaves(box: Box) -> None:
    say = Secrets()
    with box.serve() as daemon:
        first = daemon.post("/v1/responses", json={"model": "demo", "input": say("first")}).json()
        daemon.post(
            "/v1/responses",
            json={"model": "demo", "input": "and?", "previous_response_id": first["id"]},
        )
        assert daemon.stop() == 0
    (body,) = box.rows("SELECT request_body FROM requests ORDER BY seq DESC LIMIT 1")
    before = json.loads(body[0])["messages"][0]["content"]
    assert "[REDACTED:" in str(before)


def test_files_batches_and_what_is_answered_later_leave_no_secret(box: Box) -> None:
    say = Secrets()
    with box.serve() as daemon:
        done = asked(daemon, CHAT, {"model": "demo", "messages": user("hello")}).json()
        named = {"metadata": {"k": say("stored completion: metadata")}}
        assert daemon.post(f"{CHAT}/{done['id']}", json=named).status_code == 200

        body = {
            "model": "demo",
            "messages": user(say("respond-async")),
            "metadata": {"a": say("m")},
        }
        taken = asked(daemon, CHAT, body, headers={"Prefer": "respond-async"})
        assert taken.status_code == 202
        place = taken.headers["location"]
        until(lambda: daemon.get(place).status_code == 200, "it has its result")
        wrong = asked(
            daemon,
            CHAT,
            {"messages": say("respond-async: none")},
            headers={"Prefer": "respond-async"},
        )
        assert wrong.status_code in (202, 400)

        texts = [
            text_of([line("a", body={"model": say("line: model"), "messages": user(say("line"))}),
                     line("b", body={"messages": user("[demo:error] " + say("line"))}),
                     line("c", body={"messages": user("x"), "metadata": {say("line: key"): 1}})]),
            text_of([line("a"), line(say("custom_id"))]),
            text_of([line("a", method=say("line: method"))]),
            text_of([line("a", url=say("line: url"))]),
            text_of([line("a", body=[say("line: body that is none")])]),
        ]  # fmt: skip
        states = []
        for text in texts:
            batch = ended(daemon, submit(daemon, text, metadata={"k": say("batch: metadata")}))
            states.append(batch["status"])
            for name in ("output_file_id", "error_file_id"):
                if batch[name]:
                    content = daemon.get(f"/v1/files/{batch[name]}/content").content
                    assert say.left_in(content) == []
                    assert b"[REDACTED:" in content or name == "error_file_id"
        refused = box.scalar("SELECT message FROM line_marks")
        assert "[REDACTED:" in refused
        assert states == ["completed", "failed", "failed", "failed", "failed"]
        (fault,) = ended(daemon, batch_with(daemon, texts[1]))["errors"]["data"]
        assert (fault["code"], fault["line"]) == ("custom_id_not_kept", 2)

        sent = {"file": (f"{say('file name')}.txt", b"nothing")}
        daemon.post("/v1/files", files=sent, data={"purpose": "user_data"})
        uploaded = [s for (s,) in box.rows("SELECT sha256 FROM files WHERE purpose = 'batch'")]
        kept_s = box.rows("SELECT max(expires_at - created_at) / 1000 FROM files WHERE purpose IN "
                          "('batch', 'user_data')")  # fmt: skip
        assert kept_s == [(86400,)]  # the exception, and its end
        until_nothing_is_held(box)
        require_clean(box, say, *uploaded)
        assert daemon.stop() == 0
        assert say.left_in("\n".join([*map(str, daemon.log), *daemon.raw]).encode()) == []
    require_clean(box, say, *uploaded)
    assert box.proven().faults == ()


def batch_with(daemon: DaemonProcess, text: bytes) -> str:
    return submit(daemon, text)


def test_what_waits_is_held_outside_of_the_database_until_it_is_asked(box: Box) -> None:
    say = Secrets()
    slow = f"[demo:slow=10000] {say('waits')}"
    with box.serve() as daemon:
        assert box.run("queue", "pause", "--config", str(box.directory)).returncode == 0
        body = {"model": "demo", "messages": user(say("queued"))}
        taken = asked(daemon, CHAT, body, headers={"Prefer": "respond-async"})
        made = daemon.post(
            "/v1/responses", json={"model": "demo", "input": slow, "background": True}
        )
        response_id = made.json()["id"]
        names = {response_id.removeprefix("resp_"), taken.json()["id"]}
        assert {path.name for path in (box.directory / "held").iterdir()} == names
        require_clean(box, say, *names)
        daemon.kill()
    require_clean(box, say, *names)
    with box.serve() as daemon:  # asked as they were sent, after a kill
        assert box.run("queue", "resume", "--config", str(box.directory)).returncode == 0
        place = taken.headers["location"]
        until(lambda: daemon.get(place).status_code == 200, "it has its result")
        shown = daemon.post(f"/v1/responses/{response_id}/cancel").json()
        assert shown["status"] == "cancelled"
        until_nothing_is_held(box)
        assert daemon.stop() == 0
    (echo,) = box.rows("SELECT output_text FROM outputs WHERE output_text LIKE '%REDACTED%'")
    assert "You wrote: “[REDACTED:" in echo[0]
    require_clean(box, say)


def test_held_texts_that_are_gone_are_told_and_not_replaced(box: Box) -> None:
    say = Secrets()
    with box.serve() as daemon:
        assert box.run("queue", "pause", "--config", str(box.directory)).returncode == 0
        body = {"model": "demo", "messages": user(say("queued"))}
        taken = asked(daemon, CHAT, body, headers={"Prefer": "respond-async"})
        daemon.kill()
    for path in (box.directory / "held").iterdir():
        path.unlink()  # as after a restore elsewhere
    with box.serve() as daemon:
        assert box.run("queue", "resume", "--config", str(box.directory)).returncode == 0
        shown = until(
            lambda: (
                (found := daemon.get(taken.headers["location"]).json())["status"] == "failed"
                and found
            ),
            "it has failed",
        )
        assert shown["error"]["code"] == "not_found"
        assert daemon.stop() == 0
    assert box.scalar("SELECT count(*) FROM results") == 0
