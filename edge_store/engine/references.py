"""References of a JSON Schema that lead to themselves with nothing between: no text follows it.

xgrammar compiles such a schema, and lets no token pass where it comes to the reference. SGLang
0.5.23 then answers 500; 0.5.17's scheduler dies of it. Schemas are read as xgrammar reads them.
"""

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["endless_in_tag", "endless_reference"]

SCHEMA_BYTES_MAX = 256 * 1024
STEPS_MAX = 50_000  # some 20 ms
REFERENCE = "$ref"
CHOICES = ("anyOf", "oneOf")
NAMED = (
    "properties",
    "patternProperties",
)  # what is in them goes by names, and may be called anything
IN_A_TAG = ("schema", "json_schema")  # of what a structural tag has, schemas
UNUSED = ("$defs", "definitions", "const", "enum")  # no schema, or none until it is referred to


def endless_reference(schema: str) -> str | None:
    """One of the references that come to no end; None if all do, or where that takes too long."""
    return _endless([_read(schema)])


def endless_in_tag(tag: str) -> str | None:
    """The same of the schemas in a structural tag, each of which is a root of its own."""
    waiting, schemas = [_read(tag)], []
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            schemas += [part[key] for key in IN_A_TAG if key in part]
            waiting += [value for key, value in part.items() if key not in IN_A_TAG]
    return _endless(schemas)


def _read(text: str) -> Any:
    """None where no reference can be in it, or SGLang is to refuse it."""
    if f'"{REFERENCE}"' not in text or len(text) > SCHEMA_BYTES_MAX:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _endless(schemas: Sequence[Any]) -> str | None:
    steps = STEPS_MAX
    for schema in schemas:
        references = _References(schema, steps)
        try:
            found = references.endless()
        except RecursionError:
            return None
        if found is not None:
            return found
        steps = references.steps_left
    return None


class _References:
    def __init__(self, root: Any, steps: int) -> None:
        self._root = root
        self.steps_left = steps
        self._ends: set[str] = set()  # those that are known to

    def endless(self) -> str | None:
        """Begin with none that ends, and go on as long as another one is seen to."""
        targets = self._used()
        before = -1
        while before < len(self._ends) < len(targets) and self.steps_left > 0:
            before = len(self._ends)
            for reference, target in targets.items():
                if reference not in self._ends and self._does_end(target):
                    self._ends.add(reference)
        left = targets.keys() - self._ends if self.steps_left > 0 else ()
        return min(left, default=None)

    def _used(self) -> dict[str, Any]:
        """What the references stand for that are met on the way from the root."""
        found: dict[str, Any] = {}
        waiting = [self._root]
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += part
            if not isinstance(part, dict):
                continue
            for key, value in part.items():
                if key in NAMED and isinstance(value, dict):
                    waiting += value.values()
                elif key not in UNUSED:
                    waiting.append(value)
            reference = part.get(REFERENCE)
            if isinstance(reference, str) and reference not in found:
                found[reference] = self._target(reference)
                waiting.append(found[reference])
        return found

    def _does_end(self, part: Any) -> bool:
        """Whether a text can begin under it, as far as is known."""
        self.steps_left -= 1
        if not isinstance(part, dict):
            return True
        if isinstance(part.get(REFERENCE), str):
            return part[REFERENCE] in self._ends
        for key in CHOICES:
            if isinstance(part.get(key), list) and part[key]:
                return any(self._does_end(one) for one in part[key])
        every = part.get("allOf")  # of several xgrammar takes none
        return not isinstance(every, list) or len(every) != 1 or self._does_end(every[0])

    def _target(self, reference: str) -> Any:
        """What it stands for; True, which any value follows, where that is not in the schema."""
        found = self._root
        if reference != "#" and not reference.startswith("#/"):
            return True
        for name in filter(None, reference[1:].split("/")):
            if not isinstance(found, dict) or name not in found:
                return True
            found = found[name]
        return found
