"""What the daemon and a repair worker say to each other: msgpack behind a 4-byte big-endian length.

The worker first sends an empty frame: it is ready. Then each job is one frame, answered by one
``Assessed``, or by two when there is a schema: before it was applied, and after.
"""

import msgspec

from edge_store.result import JsonState, Record

__all__ = [
    "EXIT_MEMORY",
    "LENGTH_BYTES",
    "Assessed",
    "Wanted",
    "answers",
    "decode_answer",
    "decode_job",
    "encode_job",
    "frame",
]

LENGTH_BYTES = 4
EXIT_MEMORY = 3  # a worker's exit status when an answer needed more memory than it may have


class Wanted(Record, frozen=True, kw_only=True):
    """One output to assess."""

    text: str
    schema: str | None  # JSON Schema as JSON text; None when any JSON will do
    is_truncated: bool  # the engine stopped before the end: never repaired


class Assessed(Record, frozen=True, kw_only=True):
    """What became of it; the fields are those of ``Output``."""

    output_json: str | None = None
    json_state: JsonState = JsonState.TEXT
    schema_valid: bool | None = None
    schema_error: str | None = None
    repair_log: str | None = None
    repairer: str | None = None


class Job(Record, frozen=True, kw_only=True):
    """``Wanted`` on the wire: an answer may hold lone surrogates, msgpack's text may not."""

    text: bytes
    schema: bytes | None
    is_truncated: bool


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job)
_answer_decoder = msgspec.msgpack.Decoder(Assessed)


def frame(record: Assessed | Job) -> bytes:
    """The record with its length in front."""
    body = _encoder.encode(record)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def encode_job(wanted: Wanted) -> bytes:
    """The frame that asks for ``wanted``."""
    schema = wanted.schema
    return frame(
        Job(
            text=wanted.text.encode(errors="surrogatepass"),
            schema=None if schema is None else schema.encode(errors="surrogatepass"),
            is_truncated=wanted.is_truncated,
        )
    )


def decode_job(body: bytes) -> Wanted:
    """The inverse of ``encode_job``, without the length."""
    job = _job_decoder.decode(body)
    return Wanted(
        text=job.text.decode(errors="surrogatepass"),
        schema=None if job.schema is None else job.schema.decode(errors="surrogatepass"),
        is_truncated=job.is_truncated,
    )


def decode_answer(body: bytes) -> Assessed:
    """The inverse of ``frame``, without the length."""
    return _answer_decoder.decode(body)


def answers(wanted: Wanted) -> int:
    """How many frames answer ``wanted``."""
    return 1 if wanted.schema is None else 2
