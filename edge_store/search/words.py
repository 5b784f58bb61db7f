"""How a text is taken apart, so that it is found: the same way when it is stored and when it is
asked for, which is what makes the one fit the other.

Each character is folded by itself, to one character or to nothing: letter case, accents, Arabic
vowel signs, full-width forms and invisible characters make no difference. So a piece of a text,
folded, is a piece of the folded text. Words are runs of letters and digits. Chinese, Japanese and
Korean have no spaces to go by: of a run of theirs each pair of neighbours is a word, and its last
character too; so two characters are found as one word, and more as a phrase. An emoji is a word.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import chain

__all__ = [
    "FOLDS", "begins_with_run", "chars_for_parts", "fold", "for_parts", "is_letter",
    "is_run_of_one", "pieces_of", "words", "words_for_index",
]  # fmt: skip

SPACE, NUL = " ", "\0"
FINAL_SIGMA, SIGMA = "\u03c2", "\u03c3"
# Marks without which a word is the same: of Latin, Greek and Cyrillic, Hebrew points, Arabic vowel
# signs, variation selectors, key caps. Those of Indic scripts and of kana are letters of a kind.
IGNORED_MARKS = (
    (0x0300, 0x036F), (0x0483, 0x0487), (0x0591, 0x05C7), (0x0610, 0x061A), (0x064B, 0x065F),
    (0x0670, 0x0670), (0x06D6, 0x06ED), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
)  # fmt: skip
TATWEEL = "\u0640"  # stretches an Arabic word
HANGUL = (0xAC00, 0xD7A3)  # comes apart into letters

# Han, kana and Hangul with their iteration marks, radicals and compatibility forms.
RUN = (
    "\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3041-\u3096"
    "\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7fb\uf900-\ufaff\uff66-\uffdc"
    "\U0001b000-\U0001b16f\U00020000-\U0003fffd"
)
SYMBOL = "\u00a9\u00ae\u2122\u2190-\u245f\u2500-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
MARKED = (range(0x0900, 0x1D00), range(0xA800, 0xAC00))  # scripts with marks that are letters
LETTERS = rf"[^\W_{RUN}{SYMBOL}]"
ASCII_TOKEN = re.compile(r"[a-z0-9]+")


@cache
def token() -> re.Pattern[str]:
    """A word, or a run. To make it takes 5 ms, which nobody needs for ASCII."""
    marks = "".join(
        chr(code) for code in chain(*MARKED) if unicodedata.category(chr(code)) in ("Mn", "Mc")
    )
    return re.compile(rf"([{RUN}]+)|[{SYMBOL}]|{LETTERS}+(?:[{marks}]+{LETTERS}*)*")


@cache
def not_in_parts() -> re.Pattern[str]:
    """What is found by the words alone."""
    return re.compile(rf"[{RUN}{SYMBOL}]+")


class Folds(dict[int, str | None]):
    """What each character becomes, as it is met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = folded = _folded(chr(code))
        return folded


def _folded(character: str) -> str | None:
    if character.isspace() or character == NUL:  # at a NUL FTS5's trigrams would end
        return SPACE
    if HANGUL[0] <= ord(character) <= HANGUL[1]:
        return character
    bare = [each for each in unicodedata.normalize("NFKD", character) if not _is_ignored(each)]
    if not bare or bare == [SPACE]:  # a mark that stands by itself is a space with it
        return SPACE if bare else None
    plain = bare[0] if len(bare) == 1 else character
    lower = plain.lower()
    return lower.replace(FINAL_SIGMA, SIGMA) if len(lower) == 1 else plain


def _is_ignored(character: str) -> bool:
    return (
        character == TATWEEL
        or unicodedata.category(character) == "Cf"
        or any(first <= ord(character) <= last for first, last in IGNORED_MARKS)
    )


FOLDS = Folds()


def fold(text: str) -> str:
    """The text as it is compared."""
    if not text.isascii():
        return text.translate(FOLDS)
    text = text.lower()
    for each in "\n\t\r\0\v\f\x1c\x1d\x1e\x1f":
        text = text.replace(each, SPACE)
    return text


def words(folded: str, *, is_open: bool = False) -> Iterator[str]:
    """The words of a folded text, in order. ``is_open``: it goes on, for all one knows, so that a
    last run's last character is no word by itself.
    """
    if folded.isascii():
        yield from ASCII_TOKEN.findall(folded)
        return
    for found in token().finditer(folded):
        run = found[1]
        if run is None:
            yield found[0]
            continue
        for n in range(len(run) - 1):
            yield run[n : n + 2]
        if not (is_open and len(run) > 1 and found.end() == len(folded)):
            yield run[-1]


def pieces_of(folded: str) -> list[str]:
    """Its words, and its runs as they are."""
    if folded.isascii():
        return ASCII_TOKEN.findall(folded)
    return [found[0] for found in token().finditer(folded)]


def begins_with_run(text: str) -> bool:
    """Whether its first character is found without its neighbours: of a run, or a symbol."""
    return not text[:1].isascii() and not_in_parts().match(text) is not None


def is_letter(character: str) -> bool:
    """Whether a word beside it would go on with it: a letter or a digit, but of no run."""
    return character.isalnum() and not begins_with_run(character)


def words_for_index(folded: str) -> str:
    """What FTS5's ``ascii`` tokenizer takes apart into just these words."""
    return folded if folded.isascii() else SPACE.join(words(folded))


def chars_for_parts(folded: str) -> str:
    """The text whose trigrams are stored: without what is found by the words alone."""
    return folded if folded.isascii() else not_in_parts().sub(SPACE, folded)


def for_parts(folded: str) -> list[str]:
    """The pieces of it whose trigrams are stored."""
    return [folded] if folded.isascii() else not_in_parts().split(folded)


def is_run_of_one(word: str) -> bool:
    """Whether it is one character of a script without spaces."""
    if len(word) != 1 or word.isascii():
        return False
    found = token().match(word)
    return found is not None and found[1] is not None
