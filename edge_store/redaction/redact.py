"""Redaction of texts, of JSON in them, and of the bytes of an answer.

What is found becomes ``[REDACTED:name]``. Of JSON the strings and the whole numbers are looked at,
names included, as any reader sees them; everything else keeps its bytes. Of a stream that holds a
find the bytes are dropped whole: the find may lie in pieces in many events.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from edge_store.redaction.detectors import DETECTORS, Finder, Span
from edge_store.redaction.escapes import seeing_through
from edge_store.redaction.numbers import seeing_numbers, whole
from edge_store.result import Record

__all__ = ["WHOLE", "Job", "Redacted", "carry_out"]

PASSES_MAX = 8  # over what is left: a text in which something is found each time goes whole
WHOLE = "[REDACTED]"  # what stands for such a text
TOKENS = re.compile(r"logprob|token_ids|output_ids|input_ids", re.IGNORECASE)
# Of a text that is JSON; a number with a fraction is no name of anybody
SCALAR = re.compile(r'"(?:[^"\\]++|\\.)*+"|-?\d[\d.eE+-]*+', re.DOTALL)
LINE_END = re.compile(r"\r\n|[\r\n]")
SURROGATE = re.compile("[\ud800-\udfff]")


class Job(Record, frozen=True, kw_only=True, tag="redaction"):
    """What to redact: plain texts, JSON texts, and the bodies of a request and its answer."""

    detectors: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]  # name and regular expression
    texts: tuple[str | None, ...] = ()
    documents: tuple[str | None, ...] = ()
    request_body: bytes = b""
    response_body: bytes = b""


class Redacted(Record, frozen=True, kw_only=True):
    """The same without the finds; a body that cannot be cleaned is None."""

    texts: tuple[str | None, ...] = ()
    documents: tuple[str | None, ...] = ()
    request_body: bytes | None = b""
    response_body: bytes | None = b""
    counts: dict[str, int]
    is_split: bool = False  # a find was in several parts of a message
    is_done: bool = True  # false: a document is no JSON, and nothing of it can be used


class Redactor:
    """Applies finders, one after the other, and counts."""

    def __init__(self, finders: Sequence[tuple[str, Finder]]) -> None:
        self._finders = finders
        self.counts: Counter[str] = Counter()
        self.is_split = False  # a find was in several parts of a message

    def text(self, text: str) -> str:
        """A plain text."""
        pieces = [text]
        for _ in range(PASSES_MAX):
            before = len(pieces)
            for name, find in self._finders:
                pieces = [part for piece in pieces for part in self._cut(piece, name, find)]
            if len(pieces) == before:
                return "".join(pieces) if before > 1 else text
        return WHOLE

    def _cut(self, piece: str, name: str, find: Finder) -> Iterator[str]:
        if isinstance(piece, Label):
            yield piece
            return
        at = 0
        for start, end in sorted(find(piece)):
            if end > max(start, at):
                yield piece[at:start]
                yield Label(f"[REDACTED:{name}]")
                self.counts[name] += 1
                at = end
        yield piece[at:]

    def document(self, text: str) -> str:
        """A JSON text. The same where nothing is found. Raises ``ValueError``: it is none."""
        json.loads(text)
        before = self.counts.total()
        found = self._across_parts(SCALAR.sub(self._scalar, text))
        return text if self.counts.total() == before else found

    def _across_parts(self, text: str) -> str:
        """A JSON text, in which a find may lie in pieces in several parts of one message."""
        if text.count('"text"') < 2:
            return text
        value, before = json.loads(text), self.counts.total()
        for texts in _parts(value):
            together = "".join(part["text"] for part in texts)
            found = self.text(together)
            if found != together:
                for part in texts:
                    part["text"] = ""
                texts[0]["text"] = found
                self.is_split = True
        if self.counts.total() == before:
            return text
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def _scalar(self, match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == '"':
            text = json.loads(token)
        elif whole(token) is not None:
            text = token
        else:
            return token
        found = self.text(text)
        if found == text:
            return token
        return json.dumps(found, ensure_ascii=SURROGATE.search(found) is not None)


class Label(str):
    """What stands in a find's place: no rule is applied to it."""

    __slots__ = ()


def carry_out(job: Job) -> Redacted:
    """Redact. Never raises for what it holds."""
    finders = _finders(job.detectors, job.rules)
    columns = Redactor(finders)
    try:
        texts = tuple(None if t is None else columns.text(t) for t in job.texts)
        documents = tuple(None if d is None else columns.document(d) for d in job.documents)
    except (ValueError, RecursionError):
        return Redacted(counts={}, is_done=False)
    bodies = Redactor(finders)
    request_body = _body(bodies, job.request_body)
    response_body = _response(bodies, job.response_body, is_found=columns.counts.total() > 0)
    return Redacted(
        texts=texts,
        documents=documents,
        request_body=request_body,
        response_body=response_body,
        counts=dict(columns.counts | bodies.counts),
        is_split=bodies.is_split,
    )


@lru_cache(maxsize=4)
def _finders(
    detectors: tuple[str, ...], rules: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, Finder], ...]:
    found = [(name, DETECTORS[name]) for name in detectors]
    found += [(name, _finder(re.compile(rule))) for name, rule in rules]
    return tuple((name, seeing_through(seeing_numbers(find))) for name, find in found)


def _finder(pattern: re.Pattern[str]) -> Finder:
    def find(text: str) -> Iterator[Span]:
        return (match.span() for match in pattern.finditer(text))

    return find


def _body(redactor: Redactor, body: bytes) -> bytes | None:
    """A JSON body; None where it is none, which cannot be looked into."""
    if not body:
        return body
    try:
        text = body.decode()
        found = redactor.document(text)
        return body if found is text else found.encode()
    except (ValueError, RecursionError):
        return None


def _response(redactor: Redactor, body: bytes, *, is_found: bool) -> bytes | None:
    """An answer: a JSON body without its tokens, if there was anything to find; or a stream, only
    if there was nothing.
    """
    if not body:
        return body
    before = redactor.counts.total()
    try:
        text = redactor.document(body.decode())
    except (ValueError, RecursionError):
        return None if is_found or _stream_has_finds(redactor, body) else body
    if redactor.counts.total() == before and not is_found:
        return body
    try:
        if TOKENS.search(text):
            value = _without_tokens(json.loads(text))
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (ValueError, RecursionError):
        return None


def _stream_has_finds(redactor: Redactor, body: bytes) -> bool:
    """Whether anything is found in a stream's lines, or in what its events say together."""
    before = redactor.counts.total()
    together: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
    for line in LINE_END.split(body.decode("utf-8", "replace")):  # no other character ends one
        data = line.removeprefix("data:").strip()
        redactor.text(data)
        try:
            for place, text in _strings(json.loads(data), ()):
                together[place].append(text)
        except (ValueError, RecursionError):
            continue
    for texts in together.values():
        apart = set(texts)  # an id or a model is in every event
        for text in (*apart, "".join(texts)) if len(apart) > 1 else apart:
            redactor.text(text)
    return redactor.counts.total() > before


def _strings(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Each string in a JSON value and its place, told by the ``index`` that choices, calls and
    blocks have where they have one.
    """
    match value:
        case str():
            yield place, value
        case dict():
            here = (*place, value["index"]) if isinstance(value.get("index"), int) else place
            for name, item in value.items():
                yield from _strings(item, (*here, name))
        case list():
            for item in value:
                yield from _strings(item, place)


def _parts(value: Any) -> Iterator[list[dict[str, Any]]]:
    """The parts that have a text, of each list that has several."""
    pending = [value]
    while pending:
        match pending.pop():
            case dict() as fields:
                pending += fields.values()
            case list() as items:
                texts = [
                    item
                    for item in items
                    if isinstance(item, dict) and isinstance(item.get("text"), str)
                ]
                if len(texts) > 1:
                    yield texts
                pending += items


def _without_tokens(value: Any) -> Any:
    """The pieces of a find, token by token, are no find to any rule."""
    match value:
        case dict():
            return {
                name: None if TOKENS.search(name) else _without_tokens(item)
                for name, item in value.items()
            }
        case list():
            return [_without_tokens(item) for item in value]
        case _:
            return value
