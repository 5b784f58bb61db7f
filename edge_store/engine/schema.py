"""A JSON Schema that came in a request: checked, its references looked up, its parts merged."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import jsonschema
from jsonschema.validators import extend, validator_for
from referencing import Resource
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from edge_store.errors import InvalidRequest

__all__ = ["Impossible", "JSONSchema", "conjunction", "merged"]

SCHEMA_BYTES_MAX = 256 * 1024
REFERENCES_MAX = 10_000  # over all validations of one schema: a third of a second
REFERENCES_DEEP = 60  # one within the other; each takes about eight of Python's 1000 frames


class Impossible(Exception):
    """Nothing is valid under this part of a schema."""


class JSONSchema:
    """A valid schema. References leave it nowhere: nothing is fetched."""

    def __init__(self, source: str | bytes) -> None:
        """Raises ``InvalidRequest``."""
        if len(source) > SCHEMA_BYTES_MAX:
            raise InvalidRequest(
                f"the JSON schema has {len(source)} bytes, over {SCHEMA_BYTES_MAX}"
            )
        try:
            self.root = json.loads(source, parse_constant=_refuse, parse_float=_finite)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(f"the JSON schema is not JSON: {exc}") from exc
        if not isinstance(self.root, dict | bool):
            kind = type(self.root).__name__
            raise InvalidRequest(f"a JSON schema is an object or a boolean, not {kind}")
        validator = validator_for(self.root, default=jsonschema.Draft202012Validator)
        if validator in (jsonschema.Draft3Validator, jsonschema.Draft4Validator):
            raise InvalidRequest("JSON Schema drafts 3 and 4 are not taken: use 2020-12")
        try:
            with _panics_refused():
                validator.check_schema(self.root)
        except jsonschema.SchemaError as exc:
            raise InvalidRequest(f"the JSON schema is invalid: {exc.message}") from exc
        self._references_left = REFERENCES_MAX
        self._references_open = 0
        bounded = {
            keyword: self._bounded(rule)
            for keyword, rule in validator.VALIDATORS.items()
            if keyword in ("$ref", "$dynamicRef")
        }
        self._validator = extend(validator, bounded)(self.root, registry=EMPTY_REGISTRY)
        resource = Resource.from_contents(self.root, default_specification=DRAFT202012)
        uri = resource.id() or ""
        self._resolver = EMPTY_REGISTRY.with_resource(uri, resource).resolver(uri)

    def _bounded(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """A rule for references that gives up in time: alternatives that lead back to themselves
        take jsonschema as many steps as there are paths.
        """

        def follow(*arguments: Any) -> Iterator[jsonschema.ValidationError]:
            self._references_left -= 1
            if self._references_left < 0:
                raise InvalidRequest(
                    f"the JSON schema takes over {REFERENCES_MAX} references to follow"
                )
            if self._references_open == REFERENCES_DEEP:
                raise RecursionError
            self._references_open += 1
            try:
                yield from rule(*arguments) or ()
            finally:
                self._references_open -= 1

        return follow

    def lookup(self, reference: str) -> Any:
        """What a ``$ref`` stands for. Raises ``referencing.exceptions.Unresolvable``."""
        return self._resolver.lookup(reference).contents

    def allows(self, value: Any, part: Any = None) -> bool:
        """Whether the value is valid under the schema, or under one part of it."""
        validator = self._validator
        if part is not None:
            validator = validator.evolve(schema=part)
        try:
            with _panics_refused():
                return bool(validator.is_valid(value))
        except RecursionError:  # a circle of references that this value does not leave
            return False


@contextmanager
def _panics_refused() -> Iterator[None]:
    """Rust code below jsonschema panics where Python's recursion ends inside of it, with a
    ``BaseException`` of a class that cannot be imported.
    """
    try:
        yield
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise InvalidRequest("the JSON schema is nested too deeply, or refers to itself") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is out of range")
    return value


def conjunction(one: Any, other: Any) -> Any:
    """A schema for what both allow."""
    return one if one == other else {"allOf": [one, other]}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One schema of two without combinators. Raises ``Impossible`` if they contradict each other.

    What cannot be said in one schema (two patterns) keeps its first half: instances are validated.
    """
    one, other = _as_enum(one), _as_enum(other)
    both = dict(one)
    for key, value in other.items():
        if key not in both:
            both[key] = value
        elif both[key] != value and key in RULES:
            both[key] = RULES[key](both[key], value)
    for closed, opened in ((one, other), (other, one)):
        if closed.get("additionalProperties") is False and "patternProperties" not in closed:
            known = closed.get("properties", {})
            extra = opened.get("properties", {}).keys() - known.keys()
            both["properties"] = {
                name: part for name, part in both.get("properties", {}).items() if name not in extra
            }
    return both


def _as_enum(schema: dict[str, Any]) -> dict[str, Any]:
    if "const" not in schema:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("const", "enum")}
    return {**rest, "enum": [schema["const"]]}


def _types(one: Any, other: Any) -> list[str]:
    names = []
    others = [other] if isinstance(other, str) else other
    for name in [one] if isinstance(one, str) else one:
        if name in others or (name == "integer" and "number" in others):
            names.append(name)
        elif name == "number" and "integer" in others:
            names.append("integer")
    if not names:
        raise Impossible(f"nothing is both {one} and {other}")
    return names


def _common(one: list[Any], other: list[Any]) -> list[Any]:
    others = {json.dumps(value, sort_keys=True) for value in other}
    return [value for value in one if json.dumps(value, sort_keys=True) in others]


def _united(one: list[Any], other: list[Any]) -> list[Any]:
    return [*one, *(value for value in other if value not in one)]


def _multiple(one: float, other: float) -> float:
    a, b = Fraction(str(one)), Fraction(str(other))
    both = Fraction(math.lcm(a.numerator, b.numerator), math.gcd(a.denominator, b.denominator))
    return both.numerator if both.denominator == 1 else float(both)


def _by_key(rule: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        both = dict(one)
        for key, value in other.items():
            both[key] = rule(both[key], value) if key in both else value
        return both

    return merge


def _tuples(one: list[Any], other: list[Any]) -> list[Any]:
    return [conjunction(a, b) for a, b in zip_longest(one, other, fillvalue=True)]


def _items(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, list):
        return _tuples(one, other)
    return one if isinstance(one, list) else conjunction(one, other)


RULES: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(
        ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"),
        max,
    ),
    **dict.fromkeys(
        ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"),
        min,
    ),
    **dict.fromkeys(
        ("additionalProperties", "additionalItems", "contains", "propertyNames"), conjunction
    ),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas"), _by_key(conjunction)),
    "dependentRequired": _by_key(_united),
    "enum": _common,
    "items": _items,
    "multipleOf": _multiple,
    "not": lambda one, other: {"anyOf": [one, other]},
    "prefixItems": _tuples,
    "required": _united,
    "type": _types,
    "uniqueItems": lambda one, other: one or other,
}
