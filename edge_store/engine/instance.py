"""A JSON value that is valid under a JSON Schema: small, deterministic, the same for the same seed.

The search goes down the schema: references, ``allOf`` and one alternative of each ``anyOf``,
``oneOf`` and ``if`` are merged into a plain schema, and a value is made for that. What leads back
into a reference being followed is tried last or left out, so recursion ends as soon as the schema
lets it. Every instance is validated before it is given out; a bounded number is tried.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from zlib import crc32

from referencing.exceptions import Unresolvable

from edge_store.engine.scalars import numbers, strings
from edge_store.engine.schema import Impossible, JSONSchema, conjunction, merged
from edge_store.errors import InvalidRequest

__all__ = ["instance_text"]

SEEDS = 16
CACHED_BYTES_MAX = 8192
DEPTH_FULL = 5  # below it, only what is required
DEPTH_MAX = 40
STEPS_MAX = 20_000
ITEMS_MAX = 10_000
UNIQUE_TRIES = 48
ATTEMPTS = 6  # the later ones leave optional parts out

COMBINATORS = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else"})
TYPES = ("string", "object", "array", "integer", "number", "boolean", "null")
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties", "minProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "contains", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
REFERENCES = ("$ref", "$dynamicRef")

Refs = frozenset[str]
Plain = dict[str, Any]


def instance_text(schema: str | bytes, seed: int) -> str:
    """JSON text of an instance.

    Raises:
        InvalidRequest: the schema is invalid, or no instance was found.
    """
    make = _cached_text if len(schema) <= CACHED_BYTES_MAX else _instance_text
    return make(schema, seed % SEEDS)


def _instance_text(source: str | bytes, seed: int) -> str:
    schema = JSONSchema(source)
    reason = ""
    for attempt in range(ATTEMPTS):
        search = Search(schema, seed + attempt, is_minimal=attempt >= ATTEMPTS // 2)
        try:
            value = search.value(schema.root, 0, frozenset({"#"}))
            if schema.allows(value):
                return json.dumps(value, separators=(",", ":"), allow_nan=False)
        except Impossible as exc:
            reason = str(exc) or search.reason or reason
        except Unresolvable as exc:
            raise InvalidRequest(f"the JSON schema refers to nothing known: {exc}") from exc
        except (RecursionError, ArithmeticError, ValueError) as exc:
            raise InvalidRequest(f"the demo engine cannot follow the JSON schema: {exc}") from exc
    raise InvalidRequest(
        "the demo engine found no instance of the JSON schema" + (f": {reason}" if reason else "")
    )


_cached_text = lru_cache(maxsize=256)(_instance_text)


class Search:
    """One attempt at an instance."""

    def __init__(self, schema: JSONSchema, seed: int, *, is_minimal: bool) -> None:
        self._schema = schema
        self._seed = seed
        self._is_minimal = is_minimal
        self._picks = 0
        self._steps = 0
        self.reason = ""  # the newest contradiction that was met
        self._distinct = 0  # > 0: make values that differ from the ones before

    def value(self, schema: Any, depth: int, refs: Refs) -> Any:
        """A value for one part of the schema. Raises ``Impossible``."""
        if depth > DEPTH_MAX:
            raise Impossible(f"it nests over {DEPTH_MAX} levels")
        for plain, followed in self._plain_schemas(schema, refs, frozenset()):
            for value in self._values(plain, depth, followed):
                if self._schema.allows(value, schema):
                    return value
        raise Impossible

    def _pick(self, below: int) -> int:
        self._picks += 1
        return crc32(b"%d:%d" % (self._seed, self._picks)) % below

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise InvalidRequest(f"the JSON schema takes over {STEPS_MAX} steps to follow")

    def _plain_schemas(self, schema: Any, refs: Refs, hops: Refs) -> Iterator[tuple[Plain, Refs]]:
        """The schemas without combinators that any value of this one could be made from.

        ``hops`` are the references followed since the last value: meeting one again is a circle.
        """
        self._step()
        if schema is False:
            return
        if schema is True:
            schema = {}
        plain = {key: value for key, value in schema.items() if key not in COMBINATORS}
        parts: list[list[Any]] = [[part] for part in schema.get("allOf", ())]
        for key in REFERENCES:
            if key in schema:
                if schema[key] in hops:
                    raise Impossible(f"{schema[key]} refers to itself")
                refs, hops = refs | {schema[key]}, hops | {schema[key]}
                parts.append([self._schema.lookup(schema[key])])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                parts += [self._ordered(schema[key], refs)]
        if "if" in schema:
            condition = schema["if"]
            then = {"allOf": [condition, schema.get("then", True)]}
            otherwise = {"allOf": [{"not": condition}, schema.get("else", True)]}
            parts.append(self._ordered([then, otherwise], refs))
        yield from self._combined(plain, parts, refs, hops)

    def _combined(
        self, plain: Plain, parts: list[list[Any]], refs: Refs, hops: Refs
    ) -> Iterator[tuple[Plain, Refs]]:
        if not parts:
            yield plain, refs
            return
        for alternative in parts[0]:
            try:
                for other, followed in self._plain_schemas(alternative, refs, hops):
                    yield from self._combined(merged(plain, other), parts[1:], followed, hops)
            except Impossible as exc:
                self.reason = str(exc) or self.reason

    def _ordered(self, alternatives: list[Any], refs: Refs) -> list[Any]:
        start = self._pick(len(alternatives))
        rotated = alternatives[start:] + alternatives[:start]
        return sorted(rotated, key=lambda part: _leads_back(part, refs))

    def _values(self, plain: Plain, depth: int, refs: Refs) -> Iterator[Any]:
        plain = merged(plain, {})
        if "enum" in plain:
            options = plain["enum"]
            start = self._pick(len(options)) if options else 0
            yield from options[start:] + options[:start]
            return
        for kind in self._types(plain):
            self._step()
            try:
                yield from self._typed(kind, plain, depth, refs)
            except Impossible as exc:
                self.reason = str(exc) or self.reason

    def _types(self, plain: Plain) -> list[str]:
        given = plain.get("type")
        if isinstance(given, str):
            return [given]
        if given is None:
            hinted = [kind for kind, keywords in KEYWORDS.items() if keywords & plain.keys()]
            return [*hinted, *(kind for kind in TYPES if kind not in hinted)]
        start = self._pick(len(given))
        return sorted(given[start:] + given[:start], key=lambda kind: bool(kind == "null"))

    def _typed(self, kind: str, plain: Plain, depth: int, refs: Refs) -> Iterator[Any]:
        match kind:
            case "string":
                yield from strings(plain, self._pick, self._distinct)
            case "integer" | "number":
                yield from numbers(plain, self._pick, is_integer=kind == "integer")
            case "boolean":
                first = bool(self._pick(2))
                yield from (first, not first)
            case "null":
                yield None
            case "array":
                yield self._array(plain, depth, refs)
            case _:
                yield self._object(plain, depth, refs)

    def _array(self, plain: Plain, depth: int, refs: Refs) -> list[Any]:
        prefix, rest = _tuple_of(plain)
        least = max(int(plain.get("minItems", 0)), 0)
        needed = int(plain.get("minContains", 1)) if "contains" in plain else 0
        most = int(plain.get("maxItems", ITEMS_MAX))
        if max(least, needed) > ITEMS_MAX:
            raise InvalidRequest(f"an array of {least} items is over {ITEMS_MAX}")
        wanted = max(least, needed)
        if not self._is_short(depth, rest, refs):
            wanted = max(wanted, len(prefix) or 1 + self._pick(2))
        values: list[Any] = []
        seen: set[str] | None = set() if plain.get("uniqueItems") else None
        for place in range(min(wanted, most)):
            part = prefix[place] if place < len(prefix) else rest
            if place - len(prefix) in range(needed) or (place < needed and rest is False):
                part = conjunction(plain["contains"], part)
            try:
                values.append(self._item(part, depth + 1, refs, seen))
            except Impossible:
                if place < least:
                    raise
                break
        return values

    def _item(self, part: Any, depth: int, refs: Refs, seen: set[str] | None) -> Any:
        if seen is None:
            return self.value(part, depth, refs)
        before = self._distinct
        try:
            for distinct in range(UNIQUE_TRIES):
                self._distinct = len(seen) + distinct
                value = self.value(part, depth, refs)
                key = json.dumps(value, sort_keys=True)
                if key not in seen:
                    seen.add(key)
                    return value
        finally:
            self._distinct = before
        raise Impossible("too few different items")

    def _is_short(self, depth: int, part: Any, refs: Refs) -> bool:
        """Whether to leave out what may be left out."""
        return self._is_minimal or depth >= DEPTH_FULL or _leads_back(part, refs)

    def _object(self, plain: Plain, depth: int, refs: Refs) -> dict[str, Any]:
        required = list(plain.get("required", ()))
        known = plain.get("properties", {})
        most = int(plain.get("maxProperties", ITEMS_MAX))
        least = int(plain.get("minProperties", 0))
        made: dict[str, Any] = {}
        for name, part in known.items():
            if name in required:
                made[name] = self.value(_property(plain, name), depth + 1, refs)
            elif len(made) < least or not self._is_short(depth, part, refs):
                absent = sum(other not in made for other in required)
                if len(made) + absent < most:
                    self._try_property(made, plain, name, depth, refs)
        dependent = plain.get("dependentRequired", {})
        present = {*made, *required}
        needed = [other for name in sorted(present) for other in dependent.get(name, ())]
        for name in (*required, *needed):
            if name not in made:
                made[name] = self.value(_property(plain, name), depth + 1, refs)
        for number in range(4 * least):
            if len(made) >= least:
                break
            name = self._new_name(plain, number, depth, refs)
            if name not in made:
                self._try_property(made, plain, name, depth, refs)
        return made

    def _try_property(
        self, made: dict[str, Any], plain: Plain, name: str, depth: int, refs: Refs
    ) -> None:
        try:
            made[name] = self.value(_property(plain, name), depth + 1, refs)
        except Impossible:
            return

    def _new_name(self, plain: Plain, number: int, depth: int, refs: Refs) -> str:
        names: Any = {"type": "string"}
        if "propertyNames" in plain:
            names = conjunction(names, plain["propertyNames"])
        elif plain.get("patternProperties"):
            patterns = list(plain["patternProperties"])
            names = {"type": "string", "pattern": patterns[number % len(patterns)]}
        else:
            return f"extra_{number + 1}"
        self._distinct, before = number, self._distinct
        try:
            return str(self.value(names, depth + 1, refs))
        finally:
            self._distinct = before


def _leads_back(part: Any, refs: Refs) -> bool:
    """Whether a reference that is being followed occurs in this part."""
    if isinstance(part, dict):
        if any(part.get(key) in refs for key in REFERENCES if isinstance(part.get(key), str)):
            return True
        return any(_leads_back(value, refs) for value in part.values())
    return isinstance(part, list) and any(_leads_back(value, refs) for value in part)


def _tuple_of(plain: Plain) -> tuple[list[Any], Any]:
    """The schemas of the first items, and that of the rest. Older drafts list ``items``."""
    items = plain.get("items", True)
    if isinstance(items, list):
        return items, plain.get("additionalItems", True)
    return plain.get("prefixItems", []), items


def _property(plain: Plain, name: str) -> Any:
    """The schema of one property: by its name, by patterns it matches, or that of the others."""
    parts = [plain["properties"][name]] if name in plain.get("properties", {}) else []
    patterns = plain.get("patternProperties", {})
    parts += [part for pattern, part in patterns.items() if re.search(pattern, name)]
    if not parts:
        return plain.get("additionalProperties", True)
    return parts[0] if len(parts) == 1 else {"allOf": parts}
