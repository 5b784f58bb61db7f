"""Redaction leaves nothing that a rule would find, wherever it was and however it was written."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_store.config import Detector
from edge_store.redaction import DETECTORS, Job, carry_out

LABEL = re.compile(r"\[REDACTED:\w+\]")
FINDS = {
    "email": ["ada@example.org", "a.b+c@sub.example.co.uk", "jürgen@müller.de"],
    "phone": ["+49 30 1234567", "+14155552671", "(415) 555-2671", "030/1234567", "00447911123456"],
    "credit_card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "3782-822463-10005",
        "4111.1111.1111.1111",
        "4111\u00a01111\u202f1111\u20111111",
        "4111\u200b1111\u200b1111\u200b1111",
        "\uff14" + 15 * "\uff11",
        "\u0664" + 15 * "\u0661",
    ],
    "iban": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32"],
    "ipv4": ["192.168.0.1", "8.8.8.8"],
    "ipv6": ["2001:db8::1", "::1", "fe80::1:2", "2001:0db8:0000:0000:0000:ff00:0042:8329"],
    "api_key": ["sk-abcdefghijklmnop1234", "AKIAIOSFODNN7EXAMPLE", "ghp_" + 36 * "a"],
}
ALL = tuple(DETECTORS)
EVERY = [(name, find) for name, finds in FINDS.items() for find in finds]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([f for _, f in EVERY]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def job(*texts: str | None, **more: Any) -> Job:
    given_: dict[str, Any] = {
        "detectors": ALL, "rules": (), "texts": texts, "documents": (),
        "request_body": b"", "response_body": b"",
    }  # fmt: skip
    return Job(**{**given_, **more})


def left(text: str) -> list[str]:
    """What the detectors still find between the labels."""
    return [
        piece[start:end]
        for piece in LABEL.split(text)
        for find in DETECTORS.values()
        for start, end in find(piece)
    ]


def strings(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case list():
            return [s for item in value for s in strings(item)]
        case dict():
            return [s for k, v in value.items() for s in (k, *strings(v))]
        case None | bool():
            return []
        case _:
            return [repr(value)]


@pytest.mark.parametrize(("name", "find"), EVERY)
@pytest.mark.parametrize("around", ["{}", "say {} now", "({})", "{}, {}.", "x: {}\n{}"])
def test_each_detector_finds_its_own(name: str, find: str, around: str) -> None:
    text = around.format(find, find)
    found = carry_out(job(text, detectors=(name,)))
    assert found.texts == (around.format(*2 * [f"[REDACTED:{name}]"]),)
    assert found.counts == {name: around.count("{}")}


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "room 12-34", "version 1.2.3.4.5", "10:30", "std::vector", "a@b",
        "1234567890123", "4111.1111.1111.1112", "1.4111111111111111", "4111.1111.1111.1111.1",
        "DE00370400440532013000", "2026-11-29", "sk-short", "3.14159265",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert carry_out(job(text)).texts == (text,)


def test_every_detector_is_tried() -> None:
    assert set(FINDS) == set(Detector)


@given(st.lists(st.text(max_size=20) | st.sampled_from([f for _, f in EVERY])))
def test_nothing_is_left_in_a_text(parts: list[str]) -> None:
    text = " ".join(parts)
    (found,) = carry_out(job(text)).texts
    assert found is not None
    assert not left(found)


@given(JSON, st.booleans())
def test_nothing_is_left_in_json_however_it_is_escaped(value: Any, ascii_: bool) -> None:  # noqa: FBT001
    text = json.dumps(value, ensure_ascii=ascii_)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    body = body.replace(b"@", b"\\u0040")
    found = carry_out(job(documents=(text,), request_body=body, response_body=body))
    for kept in (found.documents[0], found.request_body, found.response_body):
        assert kept is not None
        for string in strings(json.loads(kept)):
            assert not left(string)
    if not found.counts:
        assert found.request_body == found.response_body == body


@given(st.text(), st.sampled_from(["a+", r"\d{3}", "(?<=x)y", "[aeiou]", "x*"]))
def test_nothing_is_left_of_a_rule_of_ones_own(text: str, rule: str) -> None:
    (found,) = carry_out(job(text, detectors=(), rules=(("own", rule),))).texts
    assert found is not None
    assert all(not m[0] for piece in LABEL.split(found) for m in re.finditer(rule, piece))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1 ",
        "1.",
        "a@",
        "A1",
        ":",
        "eyJ",
        "(1",
        "sk-",
        "-----BEGIN ",
        "\\",
        "\\u005c",
        '\\"a":"',
    ],
)
def test_no_detector_is_slow_on_a_hostile_text(piece: str) -> None:
    carry_out(job(piece * (200_000 // len(piece))))


@pytest.mark.parametrize("hide", [lambda t: t, lambda t: t.replace("@", "\\u0040")])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_json_in_json_in_text_is_seen_through(depth: int, hide: Any) -> None:
    text = hide(json.dumps({"mail": "ada@example.org"}))
    for _ in range(depth):
        text = hide(json.dumps({"arguments": text}))
    for cut in (0, 3):  # whole, and cut before its end
        (found,) = carry_out(job(f"```json\n{text[: len(text) - cut]}\n```")).texts
        assert found is not None
        assert "ada" not in found
        assert found.startswith("```json\n{")


def test_what_an_escape_says_is_cut_where_the_escape_is() -> None:
    text = "é \\ud83d\\ude00 \\n\\u0061da\\u0040example.org\\n C:\\x \\\\"
    (found,) = carry_out(job(text)).texts
    assert found == "é \\ud83d\\ude00 \\n[REDACTED:email]\\n C:\\x \\\\"


def chunks(*deltas: dict[str, Any]) -> bytes:
    return b"".join(
        b"data: " + json.dumps({"choices": [{"index": i % 2, "delta": d}]}).encode() + b"\n\n"
        for i, d in enumerate(deltas)
    )


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal", "new_field"])
def test_a_find_in_pieces_of_any_field_of_a_stream_drops_it(field: str) -> None:
    spread = [{field: "ada@exam"}, {field: "other"}, {field: "ple.org"}, {field: "choice"}]
    assert carry_out(job(response_body=chunks(*spread))).response_body is None
    harmless = chunks({field: "ada at exam"}, {field: "other"}, {field: "ple.org"})
    assert carry_out(job(response_body=harmless)).response_body == harmless


def test_a_find_in_pieces_of_a_message_is_taken_out_of_them() -> None:
    parts = [{"type": "text", "text": "to ada@exam"}, {"type": "text", "text": "ple.org now"}]
    body = json.dumps({"messages": [{"role": "user", "content": parts}], "top_p": 0.5}).encode()
    found = carry_out(job(request_body=body))
    assert found.is_split
    kept = json.loads(found.request_body or b"")
    assert kept["messages"][0]["content"][0]["text"] == "to [REDACTED:email] now"
    assert b"ple.org" not in (found.request_body or b"")


def test_everything_around_a_find_keeps_its_bytes() -> None:
    body = (
        b' {"a":  1e400, "b": 123456789012345678901234567890, "a": "ada@example.org",\n"c": 0.10}'
    )
    found = carry_out(job(request_body=body)).request_body
    assert found == body.replace(b"ada@example.org", b"[REDACTED:email]")


CARDS = [
    "4.111111111111111e15",
    "4.111111111111111E+15",
    "41111111111111110e-1",
    "4111111111111111.0",
]


@pytest.mark.parametrize("number", CARDS)
def test_a_number_is_found_however_it_is_written(number: str) -> None:
    label = "[REDACTED:credit_card]"
    plain, quoted = f'{{"card": {number}}}', f'{{"card": "{number}"}}'
    arguments = json.dumps([{"function": {"arguments": plain}}])
    found = carry_out(job(f"card_{number}", documents=(plain, quoted, arguments)))
    assert found.texts == (f"card_{label}" + ".0" * number.endswith(".0"),)
    for document in found.documents:
        assert "11111" not in (document or "")
        assert label in (document or "")
        json.loads(document or "")
    pieces = [
        {"content": '{"card": ' + number[:9]},
        {"content": "-"},
        {"content": number[9:] + "}"},
    ]
    assert carry_out(job(response_body=chunks(*pieces))).response_body is None


@pytest.mark.parametrize(
    "number", ["4.1111111111111115e14", "4.111111111111111e-15", "1e400", "1e40", "-0.0", "7e0"]
)
def test_a_number_that_is_none_keeps_its_bytes(number: str) -> None:
    body = f'{{"n": {number}}}'.encode()
    assert carry_out(job(f"it is {number}", request_body=body)).request_body == body


def test_only_a_line_end_ends_a_line_of_a_stream() -> None:
    spread = [{"content": "to\u2028ada@exam"}, {"content": "other"}, {"content": "ple.org"}]
    body = chunks(*spread).decode().replace("\\u2028", "\u2028").encode()
    assert carry_out(job(response_body=body)).response_body is None


def test_fractions_are_nobodys_number() -> None:
    body = b'{"embedding": [0.4111111111111111, -4.111111111111111e-3], "n": 4111111111111111}'
    found = carry_out(job("score 0.4111111111111111", request_body=body))
    assert found.texts == ("score 0.4111111111111111",)
    label = b'"[REDACTED:credit_card]"'
    assert found.request_body == body.replace(b" 4111111111111111", b" " + label)
