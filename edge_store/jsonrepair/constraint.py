"""Whether a whole text matches the regular expression or the grammar that it was to follow.

Regexes are read as SGLang's grammars read them: a dot is any character, a line's end too, and the
classes of digits and words are ASCII's (xgrammar: cpp/regex_converter.cc). Python's ``re`` can take
exponential time, a grammar cubic: this runs in a worker process, under the pool's deadline.
"""

import re
from functools import lru_cache

import msgspec

from edge_store.jsonrepair.ebnf import GrammarRefused
from edge_store.jsonrepair.machine import Machine
from edge_store.jsonrepair.protocol import Assessed, Constraint, ConstraintKind

__all__ = ["checked"]

ERROR_CHARACTERS_MAX = 512


class NotCheckable(Exception):
    """The rule is none that can be applied here; the message says why."""


def checked(assessed: Assessed, text: str, constraint: Constraint) -> Assessed:
    """The same, with whether the text matches."""
    holds: bool | None = None
    error: str | None = None
    try:
        match constraint.kind:
            case ConstraintKind.REGEX:
                holds = _regex(constraint.rule).fullmatch(text) is not None
            case ConstraintKind.EBNF:
                holds = _machine(constraint.rule).matches(text)
    except (NotCheckable, GrammarRefused, RecursionError) as exc:
        error = f"not checked: {exc}"[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode()
    return msgspec.structs.replace(
        assessed,
        constraint_kind=constraint.kind.value,
        constraint_holds=holds,
        constraint_error=error,
    )


@lru_cache(maxsize=16)  # callers send the same few
def _regex(rule: str) -> re.Pattern[str]:
    try:
        return re.compile(rule, re.ASCII | re.DOTALL)
    except (re.error, OverflowError, RecursionError) as exc:
        raise NotCheckable(f"it is no regular expression of Python's: {exc}") from exc


@lru_cache(maxsize=4)
def _machine(rule: str) -> Machine:
    return Machine(rule)
