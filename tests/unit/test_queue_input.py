"""The input of a batch: what is taken, what is told of what is wrong, and lines read again."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.batches import line, text_of

from edge_store.errors import StoreError
from edge_store.queue.input import Limits, check, lines_of, reread

CHAT = "/v1/chat/completions"
LIMITS = Limits(lines=100, body_bytes=1024)


def written(tmp_path: Path, text: bytes) -> Path:
    path = tmp_path / "input"
    path.write_bytes(text)
    return path


def faults(tmp_path: Path, text: bytes) -> list[tuple[str, int | None, str | None]]:
    found = check(written(tmp_path, text), CHAT, LIMITS)
    return [(fault.code, fault.line, fault.param) for fault in found.faults]


def test_a_sound_file_has_its_lines_and_the_first_model(tmp_path: Path) -> None:
    text = b"\n" + text_of([line("a"), line("b", body={"model": "other"})]).rstrip(b"\n")
    found = check(written(tmp_path, text), CHAT, LIMITS)
    assert (found.lines, found.model, found.faults) == (2, "demo", ())
    assert found.names == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"{", ("invalid_json_line", 1, None)),
        (b"[1]", ("invalid_json_line", 1, None)),
        (b"\xff", ("invalid_json_line", 1, None)),
        (b'{"custom_id": "\\ud800"}', ("invalid_json_line", 1, None)),
        (text_of([line("a", custom_id=7)]), ("invalid_custom_id", 1, "custom_id")),
        (text_of([line("a" * 513)]), ("invalid_custom_id", 1, "custom_id")),
        (text_of([line("a", method="get")]), ("invalid_method", 1, "method")),
        (text_of([line("a", url=None)]), ("mismatched_url", 1, "url")),
        (text_of([line("a", body="x")]), ("invalid_body", 1, "body")),
        (text_of([line("a", body={"stream": True})]), ("invalid_body", 1, "body.stream")),
        (text_of([line("a", body={"store": False})]), ("invalid_body", 1, "body.store")),
        (b'{"custom_id":"a","method":"POST","url":"' + CHAT.encode() + b'"}',
         ("invalid_body", 1, "body")),
        (b"", ("empty_file", None, None)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: bytes, fault: Any) -> None:
    assert faults(tmp_path, text) == [fault]


def test_a_custom_id_may_come_once(tmp_path: Path) -> None:
    text = text_of([line("a"), line("b"), line("a"), line("a", method="GET")])
    assert faults(tmp_path, text) == [
        ("duplicate_custom_id", 3, "custom_id"),
        ("invalid_method", 4, "method"),
    ]


@pytest.mark.parametrize("more", [0, 1, 2, 5000, 10_000])
def test_a_line_that_is_too_long_is_one_fault_and_the_next_is_read(
    tmp_path: Path, more: int
) -> None:
    whole = json.dumps(line("a")).encode()
    long = whole + b" " * (LIMITS.line_bytes - len(whole) + more)
    expected = [("line_too_large", 1, None)] if more else []
    assert faults(tmp_path, long + b"\nnonsense\n") == [*expected, ("invalid_json_line", 2, None)]


def test_a_file_has_no_more_lines_than_allowed_and_few_faults_are_told(tmp_path: Path) -> None:
    exactly = [line(f"line-{n}") for n in range(LIMITS.lines)]
    assert faults(tmp_path, text_of(exactly)) == []
    assert faults(tmp_path, text_of([*exactly, line("more")])) == [("too_many_lines", None, None)]
    assert len(faults(tmp_path, b"x\n" * 100)) == 100


def test_lines_are_read_and_read_again_as_they_were_sent(tmp_path: Path) -> None:
    bodies = [b'{"a":  1}', '{"ä": "\\u00e4"}'.encode(), b"{}"]
    text = b"\n".join(
        b'{"custom_id": "%d", "body": %b, "url": "x"}' % pair for pair in enumerate(bodies)
    )
    path = written(tmp_path, text.replace(b"\n", b"\r\n\n"))
    lines = list(lines_of(path, LIMITS))
    assert [(one.custom_id, one.body) for one in lines] == [
        ("0", bodies[0]), ("1", bodies[1]), ("2", bodies[2])
    ]  # fmt: skip
    assert [reread(path, one._replace(body=b"")) for one in lines] == bodies
    path.write_bytes(b"changed")
    with pytest.raises(StoreError):
        reread(path, lines[1])
    with pytest.raises(StoreError):
        list(lines_of(path, LIMITS))
