"""What a text is worth as JSON: parsed, taken out of its wrapping, or repaired; held to a schema.

Pure, but not quick: json-repair is not linear, and a schema may hold any regular expression. Runs
in a worker process, under a deadline that the pool keeps. A repair never changes what the text
begins as and never makes up a value: then the state is ``invalid``, and the text stays.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any, NamedTuple

import json_repair
import msgspec
import referencing
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.validators import Draft202012Validator, validator_for
from referencing.exceptions import Unresolvable

from edge_store.jsonrepair.constraint import checked
from edge_store.jsonrepair.protocol import Assessed, Wanted
from edge_store.jsonrepair.strict import NotJson, Unstorable, parse, parse_at, storable
from edge_store.result import JsonState

__all__ = ["REPAIRER", "assess_text", "read_text", "steps", "validated"]

REPAIR_LOG_BYTES_MAX = 4096
SCHEMA_ERROR_BYTES_MAX = 1024
SCHEMA_ERRORS_MAX = 64  # of which the most telling is kept
REPAIRER = f"json-repair {version('json-repair')}"

THOUGHT = re.compile(r"\s*+<(think(?:ing)?)>.*?</\1>", re.DOTALL)
THOUGHT_END = re.compile(r"</think(?:ing)?>")
THOUGHT_BEGIN = re.compile(r"\s*+<think(?:ing)?>")
BRACKET = re.compile(r"[\[{]")
# A word or number in brackets, as prose has it: [1], [sic], {name}. No JSON punctuation inside.
ASIDE = re.compile(r"""\[[^\[\]{}:,"']+\]|\{[^\[\]{}:,"']+\}""")
# What json-repair writes where it found nothing, or found what is not JSON.
INVENTED = ("", "NaN", "Infinity", "-Infinity")


class Found(NamedTuple):
    """The JSON in a text: ``document`` is whole; ``broken_at`` is where one begins that is not."""

    document: str | None
    broken_at: int | None
    note: str | None


def assess_text(wanted: Wanted, input_bytes_max: int) -> Assessed:
    """What became of ``wanted``; never raises for what it holds."""
    *_, last = steps(wanted, input_bytes_max)
    return last


def steps(wanted: Wanted, input_bytes_max: int) -> Iterator[Assessed]:
    """What is known after each step: ``wanted.answers`` of them."""
    assessed = read_text(wanted, input_bytes_max) if wanted.is_json else Assessed()
    yield assessed
    if wanted.schema is not None:
        assessed = validated(assessed, wanted.schema)
        yield assessed
    if wanted.constraint is not None:
        yield checked(assessed, wanted.text, wanted.constraint)


def read_text(wanted: Wanted, input_bytes_max: int) -> Assessed:
    """The JSON in the text, not yet held to the schema."""
    try:
        value = parse(wanted.text)
    except NotJson as exc:
        if wanted.is_truncated:
            return Assessed(json_state=JsonState.TRUNCATED)
        if isinstance(exc, Unstorable):
            return _invalid(str(exc))
        return _unwrapped(wanted.text, input_bytes_max)
    # Other values show their end; of a number, more digits may have been to come.
    if wanted.is_truncated and isinstance(value, int | float) and not isinstance(value, bool):
        return Assessed(json_state=JsonState.TRUNCATED)
    return Assessed(output_json=storable(wanted.text), json_state=JsonState.VALID)


def _unwrapped(text: str, input_bytes_max: int) -> Assessed:
    """The JSON inside a text that is not all JSON; repaired if it must be."""
    body = _answer(text)
    if body is None:
        return _invalid("the reasoning has no end, so there is no answer")
    found = _find(body)
    if found.document is None:
        body = _only_fence(body)
        found = _find(body)
    if found.document is not None:
        return Assessed(
            output_json=storable(found.document),
            json_state=JsonState.EXTRACTED,
            repair_log=found.note,
        )
    if found.broken_at is None:
        return _invalid(found.note or "there is no JSON in the text")
    size = len(text.encode(errors="surrogatepass"))
    if size > input_bytes_max:
        return _invalid(
            f"not repaired: {size} bytes are more than repair.input_bytes_max = {input_bytes_max}"
        )
    return _repaired(body[found.broken_at :])


def validated(assessed: Assessed, schema: str) -> Assessed:
    """The same, with what the JSON Schema says of it. References are followed inside it only."""
    if assessed.output_json is None:
        return assessed
    try:
        errors = _validator(schema).iter_errors(parse(assessed.output_json))
        error = best_match(islice(errors, SCHEMA_ERRORS_MAX))
    except (NotJson, SchemaError, Unresolvable, re.error) as exc:
        reason = exc.message if isinstance(exc, SchemaError) else str(exc)
        return _unvalidated(assessed, f"the schema is invalid: {reason}")
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001  (foreign code on a stranger's schema)
        return _unvalidated(assessed, f"not validated: {type(exc).__name__}: {exc}")
    if error is None:
        return msgspec.structs.replace(assessed, schema_valid=True)
    message = _short(f"{error.json_path}: {error.message}", SCHEMA_ERROR_BYTES_MAX)
    return msgspec.structs.replace(assessed, schema_valid=False, schema_error=message)


@lru_cache(maxsize=16)  # callers send the same few; checking one takes longer than applying it
def _validator(schema: str) -> Any:
    rules = parse(schema)
    validator_class: Any = Draft202012Validator
    if isinstance(rules, dict) and isinstance(rules.get("$schema"), str):
        validator_class = validator_for(rules, default=Draft202012Validator)
    validator_class.check_schema(rules)
    # An empty registry retrieves nothing: no schema makes this box call out.
    return validator_class(rules, registry=referencing.Registry())


def _unvalidated(assessed: Assessed, reason: str) -> Assessed:
    return msgspec.structs.replace(assessed, schema_error=_short(reason, SCHEMA_ERROR_BYTES_MAX))


def _answer(text: str) -> str | None:
    """What follows the reasoning; None when that never ends. Some engines swallow its first tag."""
    if text.lstrip().startswith(("{", "[", "`")):
        return text
    end = 0
    while thought := THOUGHT.match(text, end):
        end = thought.end()
    if end == 0:
        if THOUGHT_BEGIN.match(text):
            return None
        closing = THOUGHT_END.search(text)
        end = closing.end() if closing else 0
    return text[end:]


def _find(body: str) -> Found:
    if _is_json(body):
        return Found(body.strip(), None, None)
    bracket = _bracket(body, 0)
    if bracket is None or bracket > body.find("```") >= 0:  # else the fence is a part of the JSON
        fenced = [fence.strip() for fence in _fences(body) if _is_json(fence)]
        if fenced:
            return _longest(fenced)
    documents: list[str] = []
    while bracket is not None:
        try:
            _, end = parse_at(body, bracket)
        except NotJson:  # what lies inside is a part of it, not an answer
            if documents:
                break
            return Found(None, bracket, None)
        documents.append(body[bracket:end])
        bracket = _bracket(body, end)
    if bracket is not None:
        return Found(None, None, "a whole and a broken JSON document: either may be the answer")
    return _longest(documents) if documents else Found(None, None, None)


def _is_json(text: str) -> bool:
    try:
        parse(text)
    except NotJson:
        return False
    return True


def _bracket(body: str, begin: int) -> int | None:
    """Where the next JSON object or array seems to begin: brackets of prose are passed over."""
    while found := BRACKET.search(body, begin):
        aside = ASIDE.match(body, found.start())
        if aside is None:
            return found.start()
        begin = aside.end()
    return None


def _longest(documents: list[str]) -> Found:
    note = f"{len(documents)} JSON documents in the text; the longest was taken"
    return Found(max(documents, key=len), None, note if len(documents) > 1 else None)


def _fences(body: str) -> Iterator[str]:
    """The insides of Markdown's code fences; the last may lack its end."""
    inside: list[str] | None = None
    for line in body.split("\n"):
        if not line.lstrip().startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside = []
        else:
            yield "\n".join(inside)
            inside = None
    if inside is not None:
        yield "\n".join(inside)


def _only_fence(body: str) -> str:
    """The inside of the one fence of a text, if its first bracket is there; else the text."""
    fences = list(islice(_fences(body), 2))
    bracket = _bracket(body, 0)
    is_outside = bracket is not None and bracket < body.find("```")
    return fences[0] if len(fences) == 1 and not is_outside else body


def _repaired(broken: str) -> Assessed:
    """What json-repair makes of a text that begins with the bracket of a broken document."""
    try:
        repaired: Any = json_repair.loads(broken, skip_json_loads=True, logging=True)
        value, steps = repaired
        log = _short(
            "\n".join(f"{step['text']}: {step['context']}" for step in islice(steps, 256)),
            REPAIR_LOG_BYTES_MAX,
        )
        reason = _objection(broken, value)
        if reason is None:
            output_json = storable(json.dumps(value, ensure_ascii=False, allow_nan=False))
            parse(output_json)
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001  (a foreign parser on any text at all)
        return _invalid(f"not repaired: {type(exc).__name__}: {exc}", REPAIRER)
    if reason is not None:
        return _invalid(f"repair rejected: {reason}\n{log}".rstrip(), REPAIRER)
    return Assessed(
        output_json=output_json,
        json_state=JsonState.REPAIRED,
        repair_log=log or None,
        repairer=REPAIRER,
    )


def _objection(broken: str, value: Any) -> str | None:
    """Why a repair is no answer: it changed what the text begins as, or made something up."""
    wanted = dict if broken.startswith("{") else list
    if not isinstance(value, wanted):
        return f"the text begins as a {wanted.__name__}, the repair is a {type(value).__name__}"
    if not value:
        return "nothing was left"
    counts = dict.fromkeys(INVENTED, 0)
    _count_strings(value, counts)
    for string, count in counts.items():
        if count > broken.count(f'"{string}"') + broken.count(f"'{string}'"):
            return f"the text does not hold the string {string!r} that the repair put into it"
    return None


def _count_strings(value: Any, counts: dict[str, int]) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if item in counts:
                counts[item] += 1
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _invalid(reason: str, repairer: str | None = None) -> Assessed:
    return Assessed(
        json_state=JsonState.INVALID,
        repair_log=_short(reason, REPAIR_LOG_BYTES_MAX),
        repairer=repairer,
    )


def _short(text: str, bytes_max: int) -> str:
    """The text as UTF-8 can hold it, cut to ``bytes_max``."""
    encoded = text[:bytes_max].encode(errors="replace")
    return encoded[:bytes_max].decode(errors="ignore")
