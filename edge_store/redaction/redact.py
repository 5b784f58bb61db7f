"""Redaction of texts, of JSON in them, and of the bytes of an answer.

What is found becomes ``[REDACTED:name]``. JSON is read and written anew, because an escape would
hide from a rule what any reader sees; the numbers and names in it are looked at as texts are. Of a
stream that holds a find the bytes are dropped whole: the find may lie in pieces in many events.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from edge_store.redaction.detectors import DETECTORS, Finder, Span
from edge_store.result import Record

__all__ = ["Job", "Redacted", "carry_out"]

PASSES_MAX = 8  # over what is left: a text in which something is found each time goes whole
TOKENS = re.compile(r"logprob|token_ids|output_ids|input_ids", re.IGNORECASE)


class Job(Record, frozen=True, kw_only=True, tag="redaction"):
    """What to redact: plain texts, JSON texts, and the bodies of a request and its answer."""

    detectors: tuple[str, ...]
    rules: tuple[tuple[str, str], ...]  # name and regular expression
    texts: tuple[str | None, ...]
    documents: tuple[str | None, ...]
    request_body: bytes
    response_body: bytes


class Redacted(Record, frozen=True, kw_only=True):
    """The same without the finds; a body that cannot be cleaned is None."""

    texts: tuple[str | None, ...]
    documents: tuple[str | None, ...]
    request_body: bytes | None
    response_body: bytes | None
    counts: dict[str, int]


class Redactor:
    """Applies finders, one after the other, and counts."""

    def __init__(self, finders: Sequence[tuple[str, Finder]]) -> None:
        self._finders = finders
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """A plain text; where it is JSON, which may hide a find in escapes, as ``document``."""
        if "\\" in text and text.lstrip()[:1] in ("{", "["):
            try:
                return self.document(text)
            except (ValueError, RecursionError):
                pass
        pieces = [text]
        for _ in range(PASSES_MAX):
            before = len(pieces)
            for name, find in self._finders:
                pieces = [part for piece in pieces for part in self._cut(piece, name, find)]
            if len(pieces) == before:
                return "".join(pieces)
        return "[REDACTED]"

    def _cut(self, piece: str, name: str, find: Finder) -> Iterator[str]:
        if isinstance(piece, Label):
            yield piece
            return
        at = 0
        for start, end in find(piece):
            if end > start >= at:
                yield piece[at:start]
                yield Label(f"[REDACTED:{name}]")
                self.counts[name] += 1
                at = end
        yield piece[at:]

    def document(self, text: str) -> str:
        """A JSON text. The same where nothing is found. Raises ``ValueError``: it is none."""
        before = self.counts.total()
        value = self.value(json.loads(text))
        if self.counts.total() == before:
            return text
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    def value(self, value: Any) -> Any:
        """A decoded JSON value."""
        match value:
            case str():
                return self.text(value)
            case bool() | None:
                return value
            case int() | float():
                text = repr(value)
                found = self.text(text)
                return value if found == text else found
            case list():
                return [self.value(item) for item in value]
            case _:
                return {self.text(name): self.value(item) for name, item in value.items()}


class Label(str):
    """What stands in a find's place: no rule is applied to it."""

    __slots__ = ()


def carry_out(job: Job) -> Redacted:
    """Redact. Raises ``ValueError``, ``RecursionError`` for a document that is no JSON."""
    finders = _finders(job.detectors, job.rules)
    columns = Redactor(finders)
    texts = tuple(None if t is None else columns.text(t) for t in job.texts)
    documents = tuple(None if d is None else columns.document(d) for d in job.documents)
    bodies = Redactor(finders)
    request_body = _body(bodies, job.request_body)
    response_body = _response(bodies, job.response_body, is_found=columns.counts.total() > 0)
    return Redacted(
        texts=texts,
        documents=documents,
        request_body=request_body,
        response_body=response_body,
        counts=dict(columns.counts | bodies.counts),
    )


@lru_cache(maxsize=4)
def _finders(
    detectors: tuple[str, ...], rules: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, Finder], ...]:
    own = [(name, _finder(re.compile(rule))) for name, rule in rules]
    return (*((name, DETECTORS[name]) for name in detectors), *own)


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
        return body if found == text else found.encode()
    except (ValueError, RecursionError):
        return None


def _response(redactor: Redactor, body: bytes, *, is_found: bool) -> bytes | None:
    """An answer: a JSON body without its tokens, if there was anything to find; or a stream, only
    if there was nothing.
    """
    try:
        value = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None if is_found or _stream_has_finds(redactor, body) else body
    if not body:
        return body
    before = redactor.counts.total()
    value = redactor.value(value)
    if redactor.counts.total() == before and not is_found:
        return body
    return msgspec.json.encode(_without_tokens(value))


def _stream_has_finds(redactor: Redactor, body: bytes) -> bool:
    before = redactor.counts.total()
    for line in body.decode("utf-8", "replace").splitlines():
        data = line.removeprefix("data:").strip()
        try:
            redactor.value(json.loads(data))
        except (ValueError, RecursionError):
            redactor.text(data)
    return redactor.counts.total() > before


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
