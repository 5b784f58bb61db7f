"""Text that matches a regular expression, made by walking the parsed expression.

Literals, classes, alternation, groups, back references and quantifiers can be walked; look-around
and conditions cannot. Each text is tried against the expression before it is given out.
"""

import re
import string
from collections.abc import Callable, Iterator
from re import _constants as op  # type: ignore[attr-defined]  # the parser's own names
from re import _parser as parser  # type: ignore[attr-defined]  # sre_parse, which is deprecated
from typing import Any

from edge_store.errors import InvalidRequest

__all__ = ["TEXT_CHARS_MAX", "Pick", "matching"]

Pick = Callable[[int], int]  # a choice below n

PATTERN_CHARS_MAX = 4096
TEXT_CHARS_MAX = 100_000
ROUNDS = 4  # choices tried at each number of repetitions
CHARACTERS = string.ascii_lowercase + string.digits + string.ascii_uppercase + "_- .,:;/@+#"
CATEGORIES: dict[Any, Callable[[str], bool]] = {
    op.CATEGORY_DIGIT: str.isdecimal,
    op.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    op.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    op.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}


def matching(
    pattern: str, pick: Pick, *, whole: bool, shortest: int = 0, longest: int | None = None
) -> str:
    """A text that ``pattern`` matches: from end to end if ``whole``, else anywhere in it.

    Raises:
        InvalidRequest: it is no expression, or none that can be walked, or no text was found.
    """
    if len(pattern) > PATTERN_CHARS_MAX:
        raise InvalidRequest(f"the regex has {len(pattern)} characters, over {PATTERN_CHARS_MAX}")
    if shortest > TEXT_CHARS_MAX:
        raise InvalidRequest(f"a text of {shortest} characters is over {TEXT_CHARS_MAX}")
    try:
        compiled = re.compile(pattern)
        tree = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as exc:
        raise InvalidRequest(f"{pattern!r} is not a regex that can be used: {exc}") from exc
    matches = compiled.fullmatch if whole else compiled.search
    for text in _texts(tree, pick, shortest):
        padded = text if whole else text + "x" * (shortest - len(text))
        for candidate in {text: 0, padded: 0, padded[len(text) :] + text: 0}:
            fits = shortest <= len(candidate) and (longest is None or len(candidate) <= longest)
            if fits and matches(candidate):
                return candidate
    bounds = f" of {shortest} to {longest} characters" if shortest or longest is not None else ""
    raise InvalidRequest(f"the demo engine found no text{bounds} that matches {pattern!r}")


def _texts(tree: Any, pick: Pick, shortest: int) -> Iterator[str]:
    for extra in sorted({0, 1, 2, 3, 7, min(shortest, 10_000)}, key=lambda n: (n != 1, n)):
        for _ in range(ROUNDS):
            yield _Walk(pick, extra).text(tree)


class _Walk:
    """One way through an expression: repetitions are taken ``extra`` times more than needed."""

    def __init__(self, pick: Pick, extra: int) -> None:
        self._pick = pick
        self._extra = extra
        self._groups: dict[int, str] = {}
        self._chars = 0

    def text(self, tree: Any) -> str:
        return "".join([self._piece(kind, arg) for kind, arg in tree])

    def _piece(self, kind: Any, arg: Any) -> str:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, tree = arg
            return self._repeated(least, most, tree)
        if kind is op.BRANCH:
            return self.text(arg[1][self._pick(len(arg[1]))])
        if kind is op.SUBPATTERN:
            text = self.text(arg[3])
            if arg[0] is not None:
                self._groups[arg[0]] = text
            return text
        if kind is op.ATOMIC_GROUP:
            return self.text(arg)
        return self._character(kind, arg)

    def _repeated(self, least: int, most: int, tree: Any) -> str:
        pieces: list[str] = []
        for _ in range(min(int(most), least + self._extra)):
            pieces.append(self.text(tree))
            self._chars += 1
            if self._chars > TEXT_CHARS_MAX:
                raise InvalidRequest(f"the regex asks for over {TEXT_CHARS_MAX} repetitions")
        return "".join(pieces)

    def _character(self, kind: Any, arg: Any) -> str:
        if kind is op.LITERAL:
            return chr(arg)
        if kind is op.AT:
            return ""
        if kind is op.GROUPREF:
            return self._groups.get(arg, "")
        if kind is op.ANY:
            return CHARACTERS[self._pick(26)]
        if kind in (op.IN, op.NOT_LITERAL):
            return self._of(arg if kind is op.IN else [(op.NEGATE, None), (op.LITERAL, arg)])
        raise InvalidRequest(f"the demo engine cannot follow {str(kind).lower()} in a regex")

    def _of(self, members: list[tuple[Any, Any]]) -> str:
        is_negated = bool(members) and members[0][0] is op.NEGATE
        found = [c for c in CHARACTERS if _contains(members, c) != is_negated]
        if found:
            return found[self._pick(len(found))]
        for code in range(1, 0x3000):  # outside the usual characters: the first there is
            if _contains(members, chr(code)) != is_negated:
                return chr(code)
        for kind, arg in members:
            if not is_negated and kind in (op.LITERAL, op.RANGE):
                return chr(arg if kind is op.LITERAL else arg[0])
        raise InvalidRequest("the demo engine found no character for a class of the regex")


def _contains(members: list[tuple[Any, Any]], character: str) -> bool:
    code = ord(character)
    for kind, arg in members:
        if kind is op.LITERAL and code == arg:
            return True
        if kind is op.RANGE and arg[0] <= code <= arg[1]:
            return True
        if kind is op.CATEGORY and CATEGORIES[arg](character):
            return True
    return False
