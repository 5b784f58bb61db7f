"""The options that choose results, the same wherever a command takes them."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_store.cli.values import AT_LEAST_ZERO, MOMENT
from edge_store.result import JsonState, Operation, Status

if TYPE_CHECKING:
    from edge_store.selection import Selection

__all__ = ["require_not_empty", "selection_of", "selection_options"]

F = TypeVar("F", bound=Callable[..., Any])
COUNT = click.IntRange(min=0)


def _words(kind: type[StrEnum]) -> click.Choice[str]:
    """Its values: of an enum itself click takes the names."""
    return click.Choice([each.value for each in kind])


OPTIONS = {
    "since": click.option(
        "--since", type=MOMENT, help="Asked from then on: 2h (ago), 2026-11-01, 2026-11-01T08:00Z."
    ),
    "until": click.option("--until", type=MOMENT, help="Asked before then, as --since."),
    "model": click.option("--model", help="The model that answered, else the one asked for."),
    "status": click.option("--status", type=_words(Status), help="How it ended."),
    "operation": click.option("--operation", type=_words(Operation), help="What was asked for."),
    "tenant": click.option("--tenant", help="Whose key it was asked with."),
    "user": click.option("--user", help="The caller's `user`."),
    "conversation": click.option("--conversation", help="Id of its conversation."),
    "batch": click.option("--batch", help="Id of its batch."),
    "json_state": click.option(
        "--json-state", type=_words(JsonState), help="What became of its JSON."
    ),
    "tokens_min": click.option(
        "--tokens-min", type=COUNT, help="At least so many tokens, of input and output."
    ),
    "tokens_max": click.option("--tokens-max", type=COUNT, help="At most so many."),
    "latency_min_ms": click.option(
        "--latency-min", "latency_min_ms", type=AT_LEAST_ZERO, help="At least so many ms."
    ),
    "latency_max_ms": click.option(
        "--latency-max", "latency_max_ms", type=AT_LEAST_ZERO, help="At most so many ms."
    ),
    "pinned": click.option("--pinned/--not-pinned", default=None, help="Only what is pinned."),
}


def selection_options(*names: str) -> Callable[[F], F]:
    """Add the options of these fields of ``Selection``, in this order; of all without names."""

    def add(command: F) -> F:
        for name in reversed(names or tuple(OPTIONS)):
            command = OPTIONS[name](command)
        return command

    return add


def selection_of(given: dict[str, Any]) -> "Selection":
    """What the options say: ``given`` are the command's parameters of that kind.

    Raises:
        UsageError: nothing can be meant: a bound is above its other one.
    """
    from edge_store.selection import Selection

    for low, high in (("since", "until"), ("tokens_min", "tokens_max"),
                      ("latency_min_ms", "latency_max_ms")):  # fmt: skip
        least, most = given.get(low), given.get(high)
        if least is not None and most is not None and least > most:
            raise click.UsageError(f"--{low} is after --{high}".replace("_ms", ""))
    given = {name: given.get(name) for name in OPTIONS}
    for name, kind in (("status", Status), ("operation", Operation), ("json_state", JsonState)):
        given[name] = kind(given[name]) if given[name] is not None else None
    return Selection(**given)


def require_not_empty(given: Mapping[str, Any], verb: str, done: str) -> None:
    """For a command that deletes, or holds: a variable that is not set, as in --user "$WHO", is not
    to choose otherwise than was meant. ``verb``: what the command is to do, ``done``: its past.

    Raises:
        UsageError: an option, by its name, has an empty text.
    """
    for name, value in given.items():
        if value == "":
            raise click.UsageError(
                f"--{name.replace('_', '-')} is empty, and would not say what to {verb}: give it a "
                f"value, or leave it out; nothing was {done}"
            )
