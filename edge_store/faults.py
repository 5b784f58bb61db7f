"""What is wrong with JSON that was sent, in JSON's words: what, its value, and what it can be.

msgspec names Python's types, and calls half of a surrogate pair a truncated body. Each refusal here
has the path of its fault as ``param``, as in ``tools[0].type``.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from edge_store.errors import InvalidRequest

__all__ = ["STEP", "UNFIT", "kind_of", "refusal_of", "type_name"]

# what decoding raises
UNFIT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

NAMES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "list": "an array",
    "object": "an object",
    "dict": "an object",
    "null": "null",
    "NoneType": "null",
}
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than", "==": "just"}
UNITS = {"str": ("characters", "character"), "object": ("entries", "entry")}

AT = re.compile(r" - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`$", re.DOTALL)
EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
BOUNDED = re.compile(
    r"Expected `(?P<kind>\w+)(?: \| null)?` (?P<length>of length )?(?P<sign>[<>=]=?) (?P<bound>\S+)"
)
MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
VALUE = re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL)
STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")
HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
SHOWN_CHARS = 60


def type_name(kind: type) -> str:
    """What JSON calls values of this type."""
    return NAMES.get(kind.__name__, kind.__name__)


def kind_of(value: Any) -> str:
    """What JSON calls the kind of ``value``."""
    return type_name(type(value))


def refusal_of(
    exc: Exception, kind: Any = None, *, body: bytes = b"", what: str = "the body"
) -> InvalidRequest:
    """The refusal for what msgspec raised, reading ``what`` as a ``kind``; ``body`` is its JSON."""
    if isinstance(exc, RecursionError):
        return InvalidRequest(f"{what} is JSON nested too deeply", hint="nest it less")
    if isinstance(exc, msgspec.ValidationError):
        return _misfit(str(exc), kind, what)
    said = str(exc)
    if isinstance(exc, UnicodeDecodeError) and (odd := _odd_byte(body)):
        return InvalidRequest(f"{what} is not UTF-8: {odd}", hint="JSON is sent as UTF-8")
    if "surrogate" in said or ("truncated" in said and HALF_PAIR.search(body)):
        return InvalidRequest(
            f"{what} is not JSON: a string in it has half of a surrogate pair",
            hint=r"characters beyond U+FFFF are escaped as two, like \ud83d\ude00",
        )
    if "truncated" in said:
        said = "it ends too early" if body.strip() else "it is empty"
    return InvalidRequest(f"{what} is not JSON: {said.removeprefix('JSON is malformed: ')}")


def _odd_byte(body: bytes) -> str:
    """The first that is no UTF-8, and where: msgspec counts from the string that it is in."""
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        return f"byte {exc.start} is 0x{body[exc.start]:02x}"
    return ""


def _misfit(text: str, kind: Any, what: str) -> InvalidRequest:
    found = AT.search(text)
    path, said = (found["path"], text[: found.start()]) if found else ("", text)
    if found and found["key"]:
        path += "[...]"  # as what is wrong below a key is said to be
        return _refused(path, f"has a key that {_problem(said, kind, path)}", what)
    for pattern in (MISSING, UNKNOWN):
        named = pattern.match(said)
        if named is not None:
            path = f"{path}.{named[1]}" if path else named[1]
            is_missing = pattern is MISSING
            problem = "is required" if is_missing else "is not a parameter that is supported here"
            return _refused(path, problem, what)
    return _refused(path, _problem(said, kind, path), what)


def _refused(path: str, problem: str, what: str) -> InvalidRequest:
    if path == "[...]":  # of an object whose keys are not known: somewhere in it
        return InvalidRequest(f"a value in {what} {problem}")
    return InvalidRequest(
        f"`{path}` {problem}" if path else f"{what} {problem}", param=path or None
    )


def _problem(said: str, kind: Any, path: str) -> str:
    value, bounded, expected = VALUE.match(said), BOUNDED.match(said), EXPECTED.match(said)
    if value is not None:
        allowed = [] if kind is None else sorted(set(_allowed(kind, path)))
        known = f"it can be {', '.join(allowed)}" if allowed else "it is not one that is known"
        return f"= {value[1][:SHOWN_CHARS]} is not supported here: {known}"
    if bounded is not None:
        name, bound = bounded["kind"], f"{BOUNDS[bounded['sign']]} {bounded['bound']}"
        if bounded["length"]:
            some, one = UNITS.get(name, ("elements", "element"))
            return f"must have {bound} {one if bounded['bound'] == '1' else some}"
        return f"must be {NAMES.get(name, name)}, {bound}"
    if expected is not None:
        wanted = [NAMES.get(name, name) for name in expected["wanted"].split(" | ")]
        got = NAMES.get(expected["got"], expected["got"])
        return f"must be {' or '.join(wanted)}, not {got}"
    return f"does not fit: {said[:1].lower()}{said[1:]}"


def _allowed(kind: Any, path: str) -> Iterator[str]:
    """The values that the type has at this path, where there is a number of them."""
    places = list(_flat(inspect.type_info(kind)))
    for step in STEP.findall(path):
        places = [inner for place in places for inner in _inside(place, step)]
    for place in places:
        match place:
            case inspect.LiteralType():
                yield from map(str, place.values)
            case inspect.EnumType():
                yield from (str(member.value) for member in place.cls)


def _inside(place: inspect.Type, step: str) -> Iterator[inspect.Type]:
    match place:
        case inspect.StructType() if place.tag_field == step:
            yield inspect.LiteralType((place.tag,))
        case inspect.StructType():
            for field in place.fields:
                if field.encode_name == step:
                    yield from _flat(field.type)
        case inspect.ListType() | inspect.VarTupleType():
            yield from _flat(place.item_type)
        case inspect.DictType():
            yield from _flat(place.value_type)


def _flat(place: inspect.Type) -> Iterator[inspect.Type]:
    """Of a union each type."""
    match place:
        case inspect.UnionType():
            for each in place.types:
                yield from _flat(each)
        case inspect.Metadata():
            yield from _flat(place.type)
        case _:
            yield place
