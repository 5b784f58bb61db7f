"""What is written of a request: as much as was asked for, and nothing that a rule finds."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.records import make_result
from support.scripted import CHAT, DONE, chat_body, chat_chunk, event, recording, replay

from edge_store.config import Detector, PrivacySection, RepairSection
from edge_store.errors import StoreError
from edge_store.jsonrepair import JsonWorkers
from edge_store.recorder.redacting import (
    DOCUMENTS,
    OUTPUT_DOCUMENTS,
    OUTPUT_TEXTS,
    TEXTS,
    Redacting,
)
from edge_store.redaction import DETECTORS
from edge_store.result import Content, Output, Recorded, Result, Status


class Update(msgspec.Struct, forbid_unknown_fields=True):
    metadata: dict[str, str]


SECRET = "ada@example.org"
ASKED = {
    "messages": [{"role": "user", "content": f"write to {SECRET}"}],
    "user": "u-17",
    "metadata": {"ward": "b", "mail": SECRET},
    "temperature": 0.5,
    "stop": ["never said"],
    "rid": "mine",
}
EMAILS = PrivacySection(detectors=(Detector.EMAIL,))


@pytest.fixture
async def workers() -> AsyncIterator[JsonWorkers]:
    async with JsonWorkers(RepairSection(deadline_s=3.0)) as running:
        yield running


def only(recorded: list[Recorded]) -> Recorded:
    (one,) = recorded
    return one


def nowhere(path: Path, text: str) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        assert text.encode() not in each.read_bytes()


def test_the_detectors_of_the_settings_are_those_there_are() -> None:
    assert list(DETECTORS) == list(Detector)


@pytest.mark.parametrize("stream", [False, True])
async def test_meta_has_no_text_and_off_has_nothing_of_the_callers(
    tmp_path: Path, *, stream: bool
) -> None:
    chunks = [event(chat_chunk("never said")), event(chat_chunk(finish="stop")), DONE]
    script = replay(chunks if stream else [chat_body("never said")], streamed=stream)
    path = tmp_path / "db"
    async with recording(path, script) as running:
        for level in (b"meta", b"off"):
            caller = await running.ask(
                {**ASKED, "stream": stream},
                headers=[(b"x-edge-store-record", level)],
            )
            assert b"never said" in caller.body
        meta, off = (recorded.result for recorded in running.stored())
        nowhere(path, "never said")
    assert meta.status is off.status is Status.COMPLETED
    assert meta.outputs == off.outputs == ()
    assert meta.content.request_body == off.content.response_body == b""
    assert (meta.privacy, off.privacy) == ('{"record":"meta"}', '{"record":"off"}')
    assert meta.output_tokens == off.output_tokens == (None if stream else 2)
    assert (meta.finish_reason, off.finish_reason) == ("stop", "stop")
    assert json.loads(meta.params) == {"temperature": 0.5}
    assert (meta.user_id, meta.caller_rid, off.params) == ("u-17", "mine", "{}")
    assert (off.user_id, off.metadata, off.caller_rid) == (None, None, None)
    assert (off.request_fingerprint, off.idempotency_key_hash) == (b"", None)


async def recorded_by(
    path: Path, workers: JsonWorkers, answer: bytes, privacy: PrivacySection, **more: Any
) -> Recorded:
    async with recording(path, replay([answer]), json_workers=workers, privacy=privacy) as running:
        caller = await running.ask({**ASKED, **more})
        assert caller.body == answer  # as it was
        assert json.loads(running.engine.bodies[0])["messages"] == ASKED["messages"]
        return only(running.stored())


async def test_what_a_rule_finds_is_written_nowhere(tmp_path: Path, workers: JsonWorkers) -> None:
    path = tmp_path / "db"
    answer = chat_body(f"I wrote to {SECRET} of TICKET-42").replace(b"@", b"\\u0040")
    rules = PrivacySection(detectors=(Detector.EMAIL,), rules={"ticket": r"TICKET-\d+"})
    found = (await recorded_by(path, workers, answer, rules)).result
    nowhere(path, SECRET)
    nowhere(path, "TICKET-42")
    text = "I wrote to [REDACTED:email] of [REDACTED:ticket]"
    assert found.outputs[0].output_text == text
    assert found.content.input_text == "write to [REDACTED:email]"
    assert json.loads(found.metadata or "") == {"ward": "b", "mail": "[REDACTED:email]"}
    assert found.user_id == "u-17"
    message = json.loads(found.content.response_body)["choices"][0]["message"]
    assert message["content"] == text
    said = json.loads(found.content.request_body)["messages"][0]["content"]
    assert said == "write to [REDACTED:email]"
    assert json.loads(found.privacy or "") == {"redacted": {"email": 3, "ticket": 1}}


async def test_where_nothing_is_found_every_byte_is_kept(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    answer = b" " + chat_body("nothing to see")
    plain = {"messages": [{"role": "user", "content": "hi"}], "metadata": {}}
    async with recording(
        tmp_path / "db", replay([answer]), json_workers=workers, privacy=EMAILS
    ) as running:
        await running.ask(plain)
        found = only(running.stored())
    assert found.result.content.response_body == answer
    assert found.result.content.request_body == json.dumps(plain).encode()
    assert found.result.privacy is None


@pytest.mark.parametrize(
    ("pieces", "is_kept"), [(["ada@exam", "ple.org"], False), (["hello ", "there"], True)]
)
async def test_a_find_in_pieces_drops_the_streams_bytes(
    tmp_path: Path, workers: JsonWorkers, pieces: list[str], *, is_kept: bool
) -> None:
    chunks = [*(event(chat_chunk(p)) for p in pieces), event(chat_chunk(finish="stop")), DONE]
    script = replay(chunks, streamed=True)
    async with recording(tmp_path / "db", script, json_workers=workers, privacy=EMAILS) as running:
        await running.ask({"messages": [{"role": "user", "content": "hi"}], "stream": True})
        found = only(running.stored()).result
    if is_kept:
        assert found.content.response_body == b"".join(chunks)
        assert found.privacy is None
    else:
        assert found.content.response_body == b""
        assert found.outputs[0].output_text == "[REDACTED:email]"
        said = json.loads(found.privacy or "")
        assert said == {"redacted": {"email": 1}, "dropped": ["response_body"]}


async def test_the_tokens_of_a_find_are_no_find_and_go_with_it(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    answer = json.loads(chat_body(f"to {SECRET}"))
    answer["choices"][0]["logprobs"] = {"content": [{"token": "ada"}, {"token": "@exam"}]}
    found = await recorded_by(tmp_path / "db", workers, json.dumps(answer).encode(), EMAILS)
    kept = json.loads(found.result.content.response_body)
    assert kept["choices"][0]["logprobs"] is None


async def test_what_cannot_be_looked_through_is_not_written(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    path = tmp_path / "db"
    answer = chat_body("a" * 64 + SECRET)
    slow = PrivacySection(rules={"slow": r"(a|aa)+$"})
    found = (await recorded_by(path, workers, answer, slow)).result
    nowhere(path, SECRET)
    assert found.outputs == ()
    assert (found.user_id, found.metadata, found.content.request_body) == (None, None, b"")
    assert found.status is Status.COMPLETED
    assert found.output_tokens == 2
    assert json.loads(found.privacy or "") == {"record": "meta", "redaction": "failed"}


async def test_a_request_that_is_cut_is_not_written_unseen(
    tmp_path: Path, workers: JsonWorkers
) -> None:
    async def defect(*_args: Any) -> None:
        raise RuntimeError

    path = tmp_path / "db"
    async with recording(
        path, replay([chat_body(SECRET)]), json_workers=workers, privacy=EMAILS
    ) as running:
        running.recorder._outcome = defect  # type: ignore[method-assign,assignment]  # ours
        await running.ask(ASKED, path=CHAT)
        found = only(running.stored()).result
        nowhere(path, SECRET)
    assert json.loads(found.privacy or "")["redaction"] == "failed"


async def test_no_text_of_a_result_is_left(workers: JsonWorkers) -> None:
    document = json.dumps([{"arguments": json.dumps({"to": SECRET}).replace("@", "\\u0040")}])
    said: dict[str, Any] = dict.fromkeys(OUTPUT_TEXTS, SECRET)
    said |= dict.fromkeys(OUTPUT_DOCUMENTS, document)
    output = Output(choice_index=0, **said)
    content = Content(
        input_text=SECRET, request_body=document.encode(), response_body=document.encode()
    )
    texts = dict.fromkeys(TEXTS, SECRET) | dict.fromkeys(DOCUMENTS, document)
    result = msgspec.structs.replace(make_result(), **texts, outputs=(output,), content=content)
    found = await Redacting(EMAILS, workers).written(result)
    assert not re.search(r"\bada\b", repr(found))
    assert repr(found).count("[REDACTED:email]") == len(texts) + 7 + 3
    assert found.request_fingerprint == b""  # a guess could be tried with it


async def test_no_part_of_a_find_is_left_where_a_text_was_cut(workers: JsonWorkers) -> None:
    body = f"{'x' * 90} {SECRET} and more".encode()
    output = Output(choice_index=0, output_text=SECRET, schema_error="y" * 500 + " 'ada@exam")
    result = msgspec.structs.replace(
        make_result(),
        error_message=body[:95].decode(),
        outputs=(output,),
        content=Content(input_text=None, request_body=b"{}", response_body=body),
    )
    found = await Redacting(EMAILS, workers).written(result)
    assert not re.search(r"\bada\b", repr(found))
    assert found.outputs[0].schema_error == "[REDACTED]"
    assert (found.error_message or "").startswith("x" * 90)


async def test_without_rules_nothing_is_asked_of_a_worker() -> None:
    nobody: Any = None
    redacting = Redacting(PrivacySection(), nobody)
    result = make_result()
    assert await redacting.written(result) is result
    assert redacting.unseen(result) is result
    assert await redacting.body(b"x") == b"x"
    assert await redacting.texts(("x",)) == ("x",)
    assert await redacting.value(result, Result) is result


async def test_what_loses_its_form_is_not_stored(workers: JsonWorkers) -> None:
    redacting = Redacting(PrivacySection(rules={"form": "metadata"}), workers)
    with pytest.raises(StoreError, match="what gives it its form"):
        await redacting.value(Update(metadata={"a": "b"}), Update)
