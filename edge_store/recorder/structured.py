"""What the choices of an answer are worth: their texts as the JSON, regex or grammar that was asked
for, their tool calls' arguments as JSON under each tool's own schema.

Runs on the event loop; what may take long is done by the workers of ``jsonrepair``, all choices of
one request under one deadline. The engine's bytes stay as they are: only a caller who asks for it
gets its answer with the JSON in place of the texts.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edge_store.jsonrepair import Assessed, Constraint, ConstraintKind, JsonWorkers, Wanted
from edge_store.jsonrepair.pool import unfinished
from edge_store.jsonrepair.strict import is_too_deep
from edge_store.loggers import get_logger
from edge_store.recorder.transcript import Asked, Form, Shape
from edge_store.recorder.transcript.request import json_text
from edge_store.result import JsonState, Output

__all__ = ["Structured", "as_json", "replaced", "worst_state"]

log = get_logger(__name__)

REPAIR_LOG_CHARACTERS_MAX = 4096
WORST_LAST = (
    JsonState.TEXT,
    JsonState.VALID,
    JsonState.EXTRACTED,
    JsonState.REPAIRED,
    JsonState.TRUNCATED,
    JsonState.INVALID,
)
Call = tuple[str, Assessed | None]  # the name of the tool; None: its arguments are no JSON by kind


class Structured:
    """Assesses the outputs of requests."""

    def __init__(self, workers: JsonWorkers) -> None:
        self._workers = workers
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_aborting = False

    async def assessed(self, asked: Asked, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        """The outputs with what they are worth, under one deadline for all.

        One after the other, so that a request with many choices leaves workers to the others.
        """
        if not asked.forms and not any(output.tool_calls for output in outputs):
            return outputs
        bound_s = self._workers.request_timeout_s
        done: list[Output] = []
        deadline = asyncio.timeout(0 if self._is_aborting else bound_s)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                for output in outputs:
                    found = await self._one(asked, output)
                    done.append(_with(output, found))
        except TimeoutError:
            reason = f"not assessed: the choices of this request took over {bound_s:g} s"
            if self._is_aborting:
                reason = "not assessed: the daemon stopped"
            log.warning("json_not_assessed", reason=reason, outputs=len(outputs) - len(done))
            done += [
                _with(output, _unassessed(asked, output, reason)) for output in outputs[len(done) :]
            ]
        finally:
            self._deadlines.discard(deadline)
        return tuple(done)

    def abort(self) -> None:
        """Assess nothing more: the daemon stops."""
        self._is_aborting = True
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(0)

    async def _one(self, asked: Asked, output: Output) -> Assessed | None:
        """None where nothing in particular was asked for."""
        if output.tool_calls:
            return await self._calls(asked, output)
        form = asked.form_of(output.choice_index)
        return None if form is None else await self._workers.assess(_wanted(form, output))

    async def _calls(self, asked: Asked, output: Output) -> Assessed | None:
        schemas = dict(asked.tools)
        found: list[Call] = []
        for call in _calls_of(output):
            name = call["function"]["name"]
            if call["type"] != "function":
                found.append((name, None))
                continue
            wanted = Wanted(
                text=call["function"]["arguments"],
                schema=json_text(schemas.get(name)),
                is_truncated=_is_truncated(output),
            )
            assessed = await self._workers.assess(wanted)
            if schemas and name not in schemas:
                assessed = msgspec.structs.replace(
                    assessed, schema_valid=False, schema_error="the request has no such tool"
                )
            found.append((name, assessed))
        return _together(found)


def as_json(asked: Asked) -> Asked:
    """The same, with JSON asked of every choice."""
    forms = (msgspec.structs.replace(form, is_json=True) for form in asked.forms or (Form(),))
    return msgspec.structs.replace(asked, forms=tuple(forms))


def _wanted(form: Form, output: Output) -> Wanted:
    constraint = None
    if form.regex is not None:
        constraint = Constraint(kind=ConstraintKind.REGEX, rule=form.regex)
    elif form.ebnf is not None:
        constraint = Constraint(kind=ConstraintKind.EBNF, rule=form.ebnf)
    return Wanted(
        text=output.output_text,
        schema=form.json_schema,
        is_truncated=_is_truncated(output),
        is_json=form.is_json,
        constraint=constraint,
    )


def _unassessed(asked: Asked, output: Output, reason: str) -> Assessed | None:
    if output.tool_calls:
        return Assessed(json_state=JsonState.INVALID, repair_log=reason)
    form = asked.form_of(output.choice_index)
    return None if form is None else unfinished(_wanted(form, output), None, reason)


def _is_truncated(output: Output) -> bool:
    return output.finish_reason in (None, "length", "abort")


def _with(output: Output, found: Assessed | None) -> Output:
    if found is None:
        return output
    return msgspec.structs.replace(output, **msgspec.structs.asdict(found))


def _calls_of(output: Output) -> list[dict[str, Any]]:
    """As the transcripts have written them."""
    calls: list[dict[str, Any]] = msgspec.json.decode(output.tool_calls or "[]")
    return calls


def _together(calls: Sequence[Call]) -> Assessed | None:
    """One outcome for all calls of a choice: the worst state, the arguments as one array."""
    found = [(f"call {n} ({name})", one) for n, (name, one) in enumerate(calls) if one is not None]
    if not found:
        return None
    output_json = None
    if any(one.output_json is not None for _, one in found):
        arguments = (one.output_json if one else None for _, one in calls)
        output_json = f"[{','.join(text or 'null' for text in arguments)}]"
        if is_too_deep(output_json):
            output_json = None
    verdicts = [one.schema_valid for _, one in found]
    errors = _lines(found, lambda one: one.schema_error)
    schema_valid: bool | None = None
    if False in verdicts:
        schema_valid = False
    elif errors is None and True in verdicts:
        schema_valid = True
    return Assessed(
        output_json=output_json,
        json_state=worst_state(one.json_state for _, one in found),
        schema_valid=schema_valid,
        schema_error=errors,
        repair_log=_lines(found, lambda one: one.repair_log),
        repairer=next((one.repairer for _, one in found if one.repairer), None),
    )


def _lines(
    found: Sequence[tuple[str, Assessed]], of: Callable[[Assessed], str | None]
) -> str | None:
    lines = [f"{name}: {text}" for name, one in found if (text := of(one)) is not None]
    return "\n".join(lines)[:REPAIR_LOG_CHARACTERS_MAX] or None


def worst_state(states: Any) -> JsonState:
    """Of an iterable of states; ``text`` of none."""
    return max(states, key=WORST_LAST.index, default=JsonState.TEXT)


def replaced(shape: Shape, body: bytes, outputs: Sequence[Output]) -> bytes:
    """A plain answer with the JSON of ``outputs`` in place of texts and arguments; the same bytes
    where they are JSON already. Everything else stays as the engine wrote it.
    """
    by_index = {o.choice_index: o for o in outputs if _is_changed(o)}
    if not by_index:
        return body
    if shape is Shape.TEXT:
        answer = msgspec.json.decode(body, type=list[Pieces] | Pieces)
        pieces = answer if isinstance(answer, list) else [answer]
        for index, output in by_index.items():
            pieces[index]["text"] = _raw(output.output_json)
        return msgspec.json.encode(answer)
    whole = msgspec.json.decode(body, type=Pieces)
    choices = msgspec.json.decode(whole["choices"], type=list[Pieces])
    for place, choice in enumerate(choices):
        index = msgspec.json.decode(choice["index"]) if "index" in choice else place
        if index in by_index:
            _replace_in(choice, by_index[index])
    whole["choices"] = msgspec.Raw(msgspec.json.encode(choices))
    return msgspec.json.encode(whole)


Pieces = dict[str, msgspec.Raw]


def _is_changed(output: Output) -> bool:
    return output.output_json is not None and output.json_state is not JsonState.VALID


def _replace_in(choice: Pieces, output: Output) -> None:
    if "message" not in choice:
        choice["text"] = _raw(output.output_json)
        return
    message = msgspec.json.decode(choice["message"], type=Pieces)
    if output.tool_calls:
        calls = msgspec.json.decode(message["tool_calls"], type=list[dict[str, Any]])
        arguments = msgspec.json.decode(output.output_json or "[]", type=list[msgspec.Raw])
        for call, one in zip(calls, arguments, strict=True):
            if bytes(one) != b"null" and isinstance(call.get("function"), dict):
                call["function"]["arguments"] = bytes(one).decode()
        message["tool_calls"] = msgspec.Raw(msgspec.json.encode(calls))
    else:
        message["content"] = _raw(output.output_json)
    choice["message"] = msgspec.Raw(msgspec.json.encode(message))


def _raw(text: str | None) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(text))
