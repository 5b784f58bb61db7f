"""Whether a whole text matches the regular expression or the grammar that it was to follow.

Python's ``re`` can take exponential time, a grammar cubic: this runs in a worker process, under the
pool's deadline.
"""

from functools import lru_cache

import msgspec

from edge_store.ebnf import GrammarRefused
from edge_store.jsonrepair import regex
from edge_store.jsonrepair.machine import Machine
from edge_store.jsonrepair.protocol import Assessed, Constraint, ConstraintKind

__all__ = ["checked"]

ERROR_CHARACTERS_MAX = 512


def checked(assessed: Assessed, text: str, constraint: Constraint) -> Assessed:
    """The same, with whether the text matches."""
    holds: bool | None = None
    error: str | None = None
    try:
        match constraint.kind:
            case ConstraintKind.REGEX:
                holds = regex.holds(constraint.rule, text)
            case ConstraintKind.EBNF:
                holds = _machine(constraint.rule).matches(text)
    except (regex.NotCheckable, GrammarRefused, RecursionError) as exc:
        error = f"not checked: {exc}"[:ERROR_CHARACTERS_MAX].encode(errors="replace").decode()
    return msgspec.structs.replace(
        assessed,
        constraint_kind=constraint.kind.value,
        constraint_holds=holds,
        constraint_error=error,
    )


@lru_cache(maxsize=4)
def _machine(rule: str) -> Machine:
    return Machine(rule)
