"""How much of a request is kept: what it asks for, within what its key may."""

from pathlib import Path
from typing import Any

import pytest
from support.scripted import chat_body, recording, replay

from edge_store.errors import Forbidden, InvalidRequest
from edge_store.recorder.caller import Caller, RecordLevel, record_level, with_caller
from edge_store.result import Result, Status

SECRET = "sphinx of black quartz"
KEY = (b"idempotency-key", b"once")
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": SECRET}],
    "metadata": {"ward": SECRET},
    "user": SECRET,
    "temperature": 0.5,
}


def header(level: str) -> tuple[bytes, bytes]:
    return (b"X-Edge-Store-Record", level.encode())


async def recorded(path: Path, level: str) -> Result:
    async with recording(path, replay([chat_body(SECRET)])) as running:
        caller = await running.ask(ASKED, headers=[header(level)])
        (found,) = running.stored()
    assert SECRET.encode() in caller.body
    return found.result


def is_in_file(path: Path) -> bool:
    return any(SECRET.encode() in each.read_bytes() for each in path.parent.glob("results.db*"))


async def test_full_keeps_everything(tmp_path: Path) -> None:
    result = await recorded(tmp_path / "results.db", "full")
    assert result.outputs[0].output_text == SECRET
    assert SECRET.encode() in result.content.request_body


async def test_meta_keeps_nothing_that_was_said(tmp_path: Path) -> None:
    result = await recorded(tmp_path / "results.db", "meta")
    assert (result.outputs, result.content.input_text) == ((), None)
    assert result.content.request_body == result.content.response_body == b""
    assert (result.status, result.output_tokens) == (Status.COMPLETED, 2)
    assert (result.user_id, result.metadata) == (SECRET, f'{{"ward":"{SECRET}"}}')
    assert '"temperature":0.5' in result.params


async def test_off_keeps_that_there_was_a_request(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    result = await recorded(path, "off")
    assert not is_in_file(path)
    assert (result.params, result.request_fingerprint) == ("{}", b"")
    assert (result.status, result.boot_seq) == (Status.COMPLETED, 1)


async def test_off_takes_no_idempotency_key(tmp_path: Path) -> None:
    async with recording(tmp_path / "results.db", replay([chat_body("x")])) as running:
        with pytest.raises(InvalidRequest, match="no answer to give again"):
            await running.ask(ASKED, headers=[header("off"), KEY])
        assert running.stored() == []


@pytest.mark.parametrize("most", RecordLevel)
def test_without_the_header_the_most_that_the_key_may_is_kept(most: RecordLevel) -> None:
    assert record_level(with_caller({"headers": []}, Caller(record_max=most))) is most


@pytest.mark.parametrize("level", ["full", "FULL "])
def test_more_than_the_key_may_is_forbidden(level: str) -> None:
    caller = Caller(record_max=RecordLevel.META)
    with pytest.raises(Forbidden, match="meta is the most kept"):
        record_level(with_caller({"headers": [header(level)]}, caller))
    assert record_level(with_caller({"headers": [header("off")]}, caller)) is RecordLevel.OFF


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'everything'"):
        record_level({"headers": [header("everything")]})


async def quoting(_scope: Any, _receive: Any, _send: Any) -> None:
    raise RuntimeError(f"cannot tokenize {SECRET!r}")


@pytest.mark.parametrize(
    ("headers", "more"),
    [([header("off")], {}), ([header("meta")], {}), ([], {"store": False})],
)
async def test_what_failed_is_told_by_its_code_alone(
    tmp_path: Path, headers: list[tuple[bytes, bytes]], more: dict[str, Any]
) -> None:
    path = tmp_path / "results.db"
    asked = {"messages": ASKED["messages"], "model": "m", **more}
    async with recording(path, quoting) as running:
        await running.ask(asked, headers=headers)
        (found,) = running.stored()
        assert not is_in_file(path)
    assert (found.result.status, found.result.error_type) == (Status.FAILED, "engine_error")
    assert found.result.error_message is None
