"""What the daemon and a repair worker say to each other: msgpack behind a 4-byte big-endian length.

The worker first sends an empty frame: it is ready. Then each job is one frame, answered by one
``Assessed``, and one more for each that is to be applied, a schema and a constraint, so that what
is known is kept where the next step takes too long.
"""

from enum import StrEnum

import msgspec

from edge_store import redaction
from edge_store.result import JsonState, Record

__all__ = [
    "EXIT_MEMORY",
    "LENGTH_BYTES",
    "Assessed",
    "Constraint",
    "ConstraintKind",
    "Wanted",
    "decode_answer",
    "decode_job",
    "decode_redacted",
    "encode_job",
    "frame",
]

LENGTH_BYTES = 4
EXIT_MEMORY = 3  # a worker's exit status when an answer needed more memory than it may have


class ConstraintKind(StrEnum):
    """What else a text may have to match."""

    REGEX = "regex"
    EBNF = "ebnf"


class Constraint(Record, frozen=True, kw_only=True):
    """A regular expression or a grammar that the whole text has to match."""

    kind: ConstraintKind
    rule: str


class Wanted(Record, frozen=True, kw_only=True):
    """One output to assess."""

    text: str
    schema: str | None  # JSON Schema as JSON text; None when any JSON will do
    is_truncated: bool  # the engine stopped before the end: never repaired
    is_json: bool = True  # else only the constraint is asked about
    constraint: Constraint | None = None

    @property
    def answers(self) -> int:
        """How many frames answer it."""
        return 1 + (self.schema is not None) + (self.constraint is not None)


class Assessed(Record, frozen=True, kw_only=True):
    """What became of it; the fields are those of ``Output``."""

    output_json: str | None = None
    json_state: JsonState = JsonState.TEXT
    schema_valid: bool | None = None
    schema_error: str | None = None
    repair_log: str | None = None
    repairer: str | None = None
    constraint_kind: str | None = None
    constraint_holds: bool | None = None
    constraint_error: str | None = None


class Job(Record, frozen=True, kw_only=True, tag="json"):
    """``Wanted`` on the wire: an answer may hold lone surrogates, msgpack's text may not."""

    text: bytes
    schema: bytes | None
    is_truncated: bool
    is_json: bool
    kind: ConstraintKind | None
    rule: bytes


_encoder = msgspec.msgpack.Encoder()
_job_decoder = msgspec.msgpack.Decoder(Job | redaction.Job)
_redacted_decoder = msgspec.msgpack.Decoder(redaction.Redacted)
_answer_decoder = msgspec.msgpack.Decoder(Assessed)


def frame(record: Assessed | Job | redaction.Job | redaction.Redacted) -> bytes:
    """The record with its length in front."""
    body = _encoder.encode(record)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def encode_job(wanted: Wanted) -> bytes:
    """The frame that asks for ``wanted``."""
    schema, constraint = wanted.schema, wanted.constraint
    return frame(
        Job(
            text=wanted.text.encode(errors="surrogatepass"),
            schema=None if schema is None else schema.encode(errors="surrogatepass"),
            is_truncated=wanted.is_truncated,
            is_json=wanted.is_json,
            kind=constraint.kind if constraint else None,
            rule=constraint.rule.encode(errors="surrogatepass") if constraint else b"",
        )
    )


def decode_job(body: bytes) -> Wanted | redaction.Job:
    """The inverse of ``encode_job``, without the length."""
    job = _job_decoder.decode(body)
    if isinstance(job, redaction.Job):
        return job
    constraint = None
    if job.kind is not None:
        constraint = Constraint(kind=job.kind, rule=job.rule.decode(errors="surrogatepass"))
    return Wanted(
        text=job.text.decode(errors="surrogatepass"),
        schema=None if job.schema is None else job.schema.decode(errors="surrogatepass"),
        is_truncated=job.is_truncated,
        is_json=job.is_json,
        constraint=constraint,
    )


def decode_answer(body: bytes) -> Assessed:
    """The inverse of ``frame``, without the length."""
    return _answer_decoder.decode(body)


def decode_redacted(body: bytes) -> redaction.Redacted:
    """As ``decode_answer``, of a job of redaction."""
    return _redacted_decoder.decode(body)
