"""Whether a text follows a grammar, from its first character to its last: a recogniser for every
context-free grammar, left-recursive and ambiguous ones too.

Each rule is a small automaton whose edges are characters or calls of rules. All ways through are
followed at once, character by character; calls that begin at one place share one record of who
waits for them (as Earley's sets do, and Tomita's stacks), and a call in last place hands its own
caller on, so that right recursion is a loop. Time grows with the text's length for most grammars,
with its cube at worst: run it where it can be stopped.
"""

from typing import NamedTuple, assert_never

from edge_store.ebnf import (
    ROOT,
    CharacterClass,
    Choice,
    GrammarRefused,
    Literal,
    Repeat,
    Rule,
    Sequence,
    Tree,
    parse,
)

__all__ = ["Machine"]

STATES_MAX = 50_000  # some 20 MB; {m,n} is written out


class Place(NamedTuple):
    """What can come next at a state, ways without a character taken already."""

    characters: tuple[tuple[str | CharacterClass, int], ...]  # …, and the state behind it
    calls: tuple[tuple[int, int], ...]  # the first state of a rule, and where it comes back to
    is_end: bool  # of its rule

    @property
    def is_only_end(self) -> bool:
        return self.is_end and not self.characters and not self.calls


class Call:
    """A rule that began at one place in the text."""

    __slots__ = ("is_empty", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Item] = []  # where to go on at its end
        self.is_empty = False  # it can end where it began


Item = tuple[int, Call]  # a state, and the call of the rule that it belongs to


class Machine:
    """A grammar, ready to be applied to texts."""

    def __init__(self, grammar: str) -> None:
        """Raises:
        GrammarRefused: it is none, or has too many states.
        RecursionError: its groups are nested too deeply.
        """
        rules = parse(grammar)
        self._characters: list[list[tuple[str | CharacterClass, int]]] = []
        self._calls: list[list[tuple[int, int]]] = []
        self._free: list[list[int]] = []  # edges that take no character
        self._firsts = {name: self._state() for name in rules}
        self._ends = {self._add(tree, self._firsts[name]) for name, tree in rules.items()}
        self._places: dict[int, Place] = {}

    def matches(self, text: str) -> bool:
        """Whether the whole of ``text`` is what `root` says."""
        whole = Call()
        steps: dict[tuple[int, str], list[int]] = {}
        items: list[Item] = [(self._firsts[ROOT], whole)]
        for character in text:
            following: list[Item] = []
            for state, call in self._reached(items):
                targets = steps.get((state, character))
                if targets is None:
                    targets = steps[state, character] = self._step(state, character)
                following += [(target, call) for target in targets]
            if not following:
                return False
            items = following
        return any(
            call is whole and self._place(state).is_end for state, call in self._reached(items)
        )

    def _reached(self, items: list[Item]) -> set[Item]:
        """The items, and what is reached from them by calls and returns at this character."""
        seen: set[Item] = set()
        begun: dict[int, Call] = {}
        while items:
            item = items.pop()
            if item in seen:
                continue
            seen.add(item)
            state, call = item
            place = self._place(state)
            if place.is_end:
                call.is_empty = True  # read below only while it is in ``begun``
                items += call.waiting
            for first, back in place.calls:
                if self._place(back).is_only_end:
                    items.append((first, call))
                    continue
                inner = begun.get(first)
                if inner is None:
                    inner = begun[first] = Call()
                    items.append((first, inner))
                inner.waiting.append((back, call))
                if inner.is_empty:
                    items.append((back, call))
        return seen

    def _step(self, state: int, character: str) -> list[int]:
        code = ord(character)
        return [
            target
            for wanted, target in self._place(state).characters
            if (wanted == character if isinstance(wanted, str) else _holds(wanted, code))
        ]

    def _place(self, state: int) -> Place:
        place = self._places.get(state)
        if place is None:
            states, pending = {state}, [state]
            while pending:
                fresh = set(self._free[pending.pop()]) - states
                states |= fresh
                pending += fresh
            place = self._places[state] = Place(
                characters=tuple({edge: 0 for one in states for edge in self._characters[one]}),
                calls=tuple({edge: 0 for one in states for edge in self._calls[one]}),
                is_end=not states.isdisjoint(self._ends),
            )
        return place

    def _state(self) -> int:
        if len(self._free) >= STATES_MAX:
            raise GrammarRefused(f"it has over {STATES_MAX} states")
        self._characters.append([])
        self._calls.append([])
        self._free.append([])
        return len(self._free) - 1

    def _add(self, tree: Tree, begin: int) -> int:
        """The state that is reached when ``tree`` has been read from ``begin``: a new one."""
        end = self._state()
        match tree:
            case Literal(text):
                for character in text:
                    following = self._state()
                    self._characters[begin].append((character, following))
                    begin = following
                self._free[begin].append(end)
            case CharacterClass():
                self._characters[begin].append((tree, end))
            case Rule(name):
                self._calls[begin].append((self._firsts[name], end))
            case Sequence(parts):
                for part in parts:
                    begin = self._add(part, begin)
                self._free[begin].append(end)
            case Choice(choices):
                for choice in choices:
                    self._free[self._add(choice, begin)].append(end)
            case Repeat():
                self._repeat(tree, begin, end)
            case _:
                assert_never(tree)
        return end

    def _repeat(self, tree: Repeat, begin: int, end: int) -> None:
        part, least, most = tree
        for _ in range(least):
            begin = self._add(part, begin)
        if most is None:
            again = self._state()
            self._free[begin].append(again)
            self._free[self._add(part, again)].append(again)
            begin = again
        for _ in range((most or 0) - least):
            self._free[begin].append(end)
            begin = self._add(part, begin)
        self._free[begin].append(end)


def _holds(wanted: CharacterClass, code: int) -> bool:
    return any(least <= code <= most for least, most in wanted.ranges) != wanted.is_negated
