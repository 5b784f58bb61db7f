"""Images and audio in request bodies: taken out where they are written, put in where they are read.

They come as base64 in JSON strings, alone or in ``data:`` URLs, whatever the protocol. What is
taken out leaves nothing behind but its place, which is kept apart from the body: so no body can
hold anything that looks like one. Only what encodes again to the bytes that were sent is taken out.
Each body is split once, before it is queued to be written.
"""

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple, Protocol

import msgspec

__all__ = ["Part", "Split", "joined", "split", "split_once", "taken_out"]

BLOB_BYTES_MIN = 4096  # smaller ones are shorter than the rows they would need
INLINE_BYTES_MAX = 64 * 1024  # under a millisecond
BODY_BYTES_MIN = BLOB_BYTES_MIN * 4 // 3  # a body is not looked at below this
TAIL = 64  # of a string: a text has something in it that base64 has not
SCHEME_BYTES_MAX = 128  # data:image/png;base64,
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\"
MARKER = b";base64"
KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "audio/wav"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"%PDF", "application/pdf"),
)


class Part(NamedTuple):
    """What was taken out. ``offset`` is its place in what is left of the body; ``is_escaped`` if
    there is a backslash before each of its slashes.
    """

    offset: int
    is_escaped: bool
    media_type: str
    data: bytes
    sha256: str  # of the data, whose name it is


Split = tuple[bytes, tuple[Part, ...]]


class Splits(Protocol):
    """What has a body, and what is left of it without its images."""

    @property
    def split_body(self) -> Split: ...


async def taken_out(record: Splits, body: bytes) -> None:
    """Split the ``body`` of a record before it is written: on a thread of its own if it is long, so
    that no COMMIT waits for that.
    """
    if len(body) > INLINE_BYTES_MAX:
        import asyncio  # noqa: PLC0415  (a fifth of the start of a command that reads)

        await asyncio.to_thread(getattr, record, "split_body")
    else:
        _ = record.split_body


def split_once(record: msgspec.Struct, body: bytes) -> Split:
    """``split`` of the body that a record has, which keeps it (``dict=True``) unless it is short.

    A ``cached_property`` would do that under one lock for all records, up to Python 3.11: the event
    loop, too, would wait for a long one.
    """
    if len(body) < BODY_BYTES_MIN:
        return body, ()
    kept: dict[str, Split] = record.__dict__
    if "split" not in kept:
        kept["split"] = split(body)
    return kept["split"]


def split(body: bytes) -> Split:
    """The body without its images and audio, and these, in order."""
    if not _may_hold(body):
        return body, ()
    strings = body.split(b'"')
    parts: list[Part] = []
    offset = 0
    for place, text in enumerate(strings):
        if len(text) >= BODY_BYTES_MIN and not text[-TAIL:].translate(None, ALPHABET):
            start = _start(text)
            part = _part(text, start, offset)
            if part is not None:
                parts.append(part)
                strings[place] = text[:start]
        offset += len(strings[place]) + 1
    return (b'"'.join(strings), tuple(parts)) if parts else (body, ())


def _may_hold(body: bytes) -> bool:
    """Whether there may be one: of places so far apart that none fits between two, whether one
    looks as base64 does.
    """
    if len(body) < BODY_BYTES_MIN:
        return False
    return any(
        not body[place : place + TAIL].translate(None, ALPHABET)
        for place in range(0, len(body) - TAIL + 1, BODY_BYTES_MIN - TAIL)
    )


def _start(text: bytes) -> int:
    """Where the base64 begins, in a ``data:`` URL or without one."""
    comma = text.find(b",", 0, SCHEME_BYTES_MAX)
    return comma + 1 if comma > 0 and text.startswith(b"data:") else 0


def _part(text: bytes, start: int, offset: int) -> Part | None:
    encoded = text[start:]
    is_escaped = b"\\" in encoded
    try:
        plain = encoded.replace(b"\\/", b"/") if is_escaped else encoded
        data = a2b_base64(plain, strict_mode=True)
    except Error:
        return None
    if len(data) < BLOB_BYTES_MIN or _encoded(data, is_escaped=is_escaped) != encoded:
        return None
    declared = text[len(b"data:") : max(start - 1, 0)].partition(b";")[0].replace(b"\\/", b"/")
    kind, name = _media_type(data, declared), sha256(data).hexdigest()
    return Part(offset + start, is_escaped, kind, data, name)


def _media_type(data: bytes, declared: bytes) -> str:
    if declared:
        return declared.decode("ascii", "backslashreplace").lower()
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    known = (kind for magic, kind in KINDS if data.startswith(magic))
    return next(known, "application/octet-stream")


def _encoded(data: bytes, *, is_escaped: bool) -> bytes:
    encoded = b2a_base64(data, newline=False)
    return encoded.replace(b"/", b"\\/") if is_escaped else encoded


def joined(left: bytes, parts: Iterable[tuple[int, int, bytes | None]]) -> bytes:
    """The body as it was: of each part its offset, whether it is escaped, and its data, in order.
    Data that is not there any more leaves its place empty.
    """
    pieces: list[bytes] = []
    done = 0
    for offset, is_escaped, data in parts:
        pieces += left[done:offset], _encoded(data or b"", is_escaped=bool(is_escaped))
        done = offset
    return b"".join((*pieces, left[done:]))
