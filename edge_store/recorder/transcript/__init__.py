"""Transcripts: what was asked and what was answered, read from the bytes of one wire protocol.

A ``Dialect`` reads a request; the ``Reader`` it gives is fed the answer, either whole or event by
event, and says whether what has come may be its end, which is held back until the COMMIT. Parsers
are pure: no clock, no I/O. The bytes that pass are never altered.
"""

from enum import StrEnum
from typing import Any, Protocol

from edge_store.recorder.envelope import Envelope
from edge_store.result import Operation, Output, Record

__all__ = ["Asked", "Dialect", "Form", "Garbled", "Reader", "Reading", "Shape"]


class Garbled(ValueError):
    """The engine sent what is not an answer in this protocol."""


class Form(Record, frozen=True, kw_only=True):
    """What the text of an answer was asked to be."""

    is_json: bool = False
    json_schema: str | None = None  # JSON
    regex: str | None = None
    ebnf: str | None = None


class Shape(StrEnum):
    """Where a plain answer holds its texts; only these can be replaced in it."""

    CHOICES = "choices"  # OpenAI's
    TEXT = "text"  # of `/generate`


class Asked(Record, frozen=True, kw_only=True):
    """What the recorder needs to know of a request."""

    operation: Operation
    model: str | None
    stream: bool
    choices: int
    choices_per_input: int = 1  # of `choices`, those that share one prompt
    params: str  # JSON object: everything that is not content
    input_text: str | None
    user_id: str | None = None
    metadata: str | None = None  # JSON
    is_kept: bool = True  # else the row says that it was, and nothing of what was said
    caller_rid: str | None = None
    takes_rid: bool = True  # the protocol has a field for our id
    forms: tuple[Form, ...] = ()  # one for all, or one for each input
    tools: tuple[tuple[str, Any], ...] = ()  # name and JSON Schema of its arguments, as decoded
    shape: Shape | None = None
    splice: tuple[tuple[str, Any], ...] = ()  # keys to add to the engine's copy of the body
    drop_usage: bool = False  # the caller did not ask for the usage event that we asked for

    def form_of(self, choice_index: int) -> Form | None:
        """What this choice was asked to be; None: nothing in particular."""
        if not self.forms:
            return None
        place = choice_index // self.choices_per_input
        return self.forms[place if place < len(self.forms) else -1]


class Reading(Record, frozen=True, kw_only=True):
    """What came out, as far as it came."""

    outputs: tuple[Output, ...] = ()
    response_id: str | None = None
    response_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    is_complete: bool = False
    error_message: str | None = None
    error_status: int | None = None  # HTTP's, where the error in a stream names one


class Reader(Protocol):
    """Takes one answer."""

    has_begun: bool  # a first piece of text, reasoning or a tool call has come
    is_usage: bool  # the event just taken carries token counts and nothing else

    def body(self, body: bytes) -> None:
        """Take a whole plain answer. Raises ``Garbled``."""

    def event(self, data: bytes) -> bool:
        """Take the data of one event of a stream; true if the answer may now be at its end.

        What came since the end began is held; a false later (another choice began) lets it pass.
        Raises ``Garbled``.
        """

    def reading(self) -> Reading:
        """What has been read so far."""


class Dialect(Protocol):
    """One wire protocol."""

    envelope: Envelope

    def ask(self, body: dict[str, Any]) -> Asked:
        """Read a decoded request. Raises ``InvalidRequest``."""

    def reader(self, asked: Asked) -> Reader:
        """A reader for the answer."""
