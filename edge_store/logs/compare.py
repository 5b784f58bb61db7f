"""What differs between two results: what was asked, with which parameters, what was answered."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edge_store.logs.turns import turns_of
from edge_store.result import Output, Record, Result

__all__ = ["Difference", "differences", "differing_answers"]

CONTEXT_LINES = 3
ABSENT = "(none)"


class Difference(Record, frozen=True, kw_only=True):
    """``lines``: a unified diff without its two head lines, or `name: one → other`."""

    what: str
    lines: tuple[str, ...]


def differences(one: Result, other: Result) -> list[Difference]:
    """Of prompts, parameters and answers."""
    found = list(_unified("prompt", _prompt(one), _prompt(other)))
    changed = tuple(_parameters(one, other))
    if changed:
        found.append(Difference(what="parameters", lines=changed))
    return found + differing_answers(one.outputs, other.outputs)


def differing_answers(one: Sequence[Output], other: Sequence[Output]) -> list[Difference]:
    """Of each choice: its text, its tool calls but for their ids, and why it ended."""
    found: list[Difference] = []
    for place in range(max(len(one), len(other))):
        title = f"answer {place}" if max(len(one), len(other)) > 1 else "answer"
        mine, its = (_answer(outputs, place) for outputs in (one, other))
        found += _unified(title, mine, its)
    return found


def _prompt(result: Result) -> str:
    turns = turns_of(result)
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{turn.role}: {turn.text}" for turn in turns)


def _parameters(one: Result, other: Result) -> Iterator[str]:
    mine, its = (_asked_with(result) for result in (one, other))
    for name in sorted({*mine, *its}):
        values = [found.get(name, ABSENT) for found in (mine, its)]
        if values[0] != values[1]:
            yield f"{name}: {values[0]} → {values[1]}"


def _asked_with(result: Result) -> dict[str, str]:
    params: dict[str, Any] = msgspec.json.decode(result.params)
    found = {name: msgspec.json.encode(value).decode() for name, value in params.items()}
    for name in ("operation", "request_model", "response_model", "engine", "engine_version"):
        value = getattr(result, name)
        if value is not None:
            found[name] = str(value)
    found["stream"] = "true" if result.stream else "false"
    found.pop("model", None)
    return found


def _answer(outputs: Sequence[Output], place: int) -> str:
    if place >= len(outputs):
        return ""
    output = outputs[place]
    parts = [output.output_text] if output.output_text else []
    parts += [f"→ {call}" for call in _calls(output.tool_calls)]
    if output.finish_reason not in (None, "stop", "tool_calls"):
        parts.append(f"(ended by {output.finish_reason})")
    return "\n".join(parts)


def _calls(text: str | None) -> Iterator[str]:
    """Ids of calls are made up anew each time."""
    calls = msgspec.json.decode(text) if text else None
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, dict) else call
        if isinstance(function, dict):
            yield f"{function.get('name')}({function.get('arguments')})"
        else:
            yield str(function)


def _unified(what: str, one: str, other: str) -> Iterator[Difference]:
    if one == other:
        return
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), n=CONTEXT_LINES, lineterm="")
    shown = tuple(lines)[2:] or ("(they differ in the ends of their lines)",)
    yield Difference(what=what, lines=shown)
