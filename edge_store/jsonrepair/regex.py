r"""Regular expressions as SGLang's grammars read them, for Python's ``re``: a dot is any character,
digits and words are ASCII's, and the whole text must match (xgrammar: cpp/regex_converter.cc).

xgrammar's releases differ in what ``\s`` is beyond ASCII, and ``\D`` in a negated class; and none
knows ``^`` and ``$`` inside a rule, where ``re`` does. So each rule is read twice: as what every
reading takes, and as what any takes. A text between the two is not judged. What is read in another
way altogether is refused.
"""

import re
from functools import lru_cache

__all__ = ["NotCheckable", "holds"]

SPACES = r"\t-\r "
WIDE_SPACES = (
    SPACES + r"\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)  # ECMAScript
NO_SPACES = r"\x00-\x08\x0e-\x1f!-\U0010ffff"
NO_WIDE_SPACES = (
    r"\x00-\x08\x0e-\x1f!-\u009f\u00a1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e"
    r"\u2060-\u2fff\u3001-\ufefe\uff00-\U0010ffff"
)
STRICT, LENIENT = 0, 1
MEANING = {"s": (SPACES, WIDE_SPACES), "S": (NO_WIDE_SPACES, NO_SPACES)}
NEGATED = {  # older ones know what is none of them up to ASCII's end alone, there
    "s": (WIDE_SPACES, SPACES),
    "S": (NO_SPACES, r"\x00-\x08\x0e-\x1f!-\x7f"),
    "D": (r"\D", r"\x00-/:-\x7f"),
    "W": (r"\W", r"\x00-/:-@\[-\^`{-\x7f"),
}
TOKEN = re.compile(r"\\(?P<escaped>[\s\S])|(?P<class>\[\^?)|(?P<anchor>[\^$])|[\s\S]")
IN_CLASS = re.compile(r"\\(?P<escaped>[\s\S])|(?P<end>\])|[\s\S]")
QUANTIFIERS = "*+?{"
DIFFERENT = "engines read \\s, ^ or $ in it in different ways, and the text shows it"


class NotCheckable(Exception):
    """The rule is none that can be applied here; the message says why."""


def holds(rule: str, text: str) -> bool:
    """Whether the whole text matches.

    Raises:
        NotCheckable: `re` does not know the rule, or it would be read in another way.
    """
    strict, lenient = _patterns(rule)
    if strict.fullmatch(text) is not None:
        return True
    if lenient is not strict and lenient.fullmatch(text) is not None:
        raise NotCheckable(DIFFERENT)
    return False


@lru_cache(maxsize=16)  # callers send the same few
def _patterns(rule: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    flags = re.ASCII | re.DOTALL
    try:
        re.compile(rule, flags)
        strict, lenient = _readings(rule)
        first = re.compile(strict, flags)
        return first, first if lenient == strict else re.compile(lenient, flags)
    except (re.error, OverflowError, RecursionError) as exc:
        raise NotCheckable(f"it is no regular expression of Python's: {exc}") from exc


def _readings(rule: str) -> tuple[str, str]:
    """What every reading takes, and what any takes."""
    strict: list[str] = []
    lenient: list[str] = []
    at = 0
    while at < len(rule):
        token = TOKEN.match(rule, at)
        assert token is not None
        at = token.end()
        escaped, following = token["escaped"], rule[at : at + 1]
        if escaped in MEANING:
            both = tuple(f"[{inside}]" for inside in MEANING[escaped])
        elif token["anchor"]:
            if following and following in QUANTIFIERS:
                raise NotCheckable(f"{token[0]}{following} is read in different ways")
            both = (r"\Z" if token[0] == "$" else token[0], "")
        elif token["class"]:
            at, both = _class(rule, at, token[0])
        else:
            if escaped and (escaped in "AZ" or (escaped == "0" and following.isdigit())):
                raise NotCheckable(f"{token[0]}{following} is read in different ways")
            both = (token[0], token[0])
        strict.append(both[STRICT])
        lenient.append(both[LENIENT])
    return "".join(strict), "".join(lenient)


def _class(rule: str, at: int, begin: str) -> tuple[int, tuple[str, str]]:
    """A character class from behind its ``[`` or ``[^``: where it ends, and its two readings."""
    if rule.startswith("]", at) or (begin == "[" and rule.startswith("\\^", at)):
        raise NotCheckable(f"{rule[at - len(begin) : at + 2]} is read in different ways")
    readings = [begin], [begin]
    while True:
        token = IN_CLASS.match(rule, at)
        assert token is not None, "re has compiled it"
        at = token.end()
        escaped = token["escaped"]
        meaning = MEANING if begin == "[" else NEGATED
        if escaped in meaning:
            both = meaning[escaped]
        elif escaped and escaped.isdigit() and (escaped != "0" or rule[at : at + 1].isdigit()):
            raise NotCheckable(f"{token[0]} in a class is read in different ways")
        else:
            both = (token[0], token[0])
        for reading, said in zip(readings, both, strict=True):
            reading.append(said)
        if token["end"]:
            return at, ("".join(readings[STRICT]), "".join(readings[LENIENT]))
