"""How results look in JSON, as types for the document, made from the records themselves."""

from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge_store.api.pages import JSON_TEXT_FIELDS, TIME_FIELDS
from edge_store.result import Content, Output, Result

__all__ = ["ResultList", "ShownResult", "WholeResult"]

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
HASHES = ("request_fingerprint", "idempotency_key_hash")


def _shown(name: str, kind: Any) -> Any:
    if name in TIME_FIELDS:
        return Time | None
    if name in JSON_TEXT_FIELDS:
        return Any
    return str | None if name in HASHES else kind


ShownOutput = msgspec.defstruct(
    "ShownOutput",
    [
        (field.name, Any if field.name in ("tool_calls", "output_json") else field.type)
        for field in msgspec.structs.fields(Output)
    ],
    forbid_unknown_fields=True,
)
FIELDS: list[Any] = [
    ("object", Literal["result"]),
    ("seq", int),
    ("timeline", str),
    ("digest", str),
    *(
        (field.name, _shown(field.name, field.type))
        for field in msgspec.structs.fields(Result)
        if field.name not in ("outputs", "content")
    ),
    ("outputs", GenericAlias(list, (ShownOutput,))),
]
CONTENT: list[Any] = [
    (field.name, str | None if field.name == "input_text" else str)
    for field in msgspec.structs.fields(Content)
]
ShownResult = msgspec.defstruct("ShownResult", FIELDS, forbid_unknown_fields=True)
WholeResult = msgspec.defstruct("WholeResult", [*FIELDS, *CONTENT], forbid_unknown_fields=True)
ResultList = msgspec.defstruct(
    "ResultList",
    [
        ("object", Literal["list"]),
        ("data", GenericAlias(list, (ShownResult,))),
        ("has_more", bool),
        ("next_seq", int | None),
    ],
    forbid_unknown_fields=True,
)
