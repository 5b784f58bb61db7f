"""What the named detectors find. Each is linear in the text but for a bounded factor.

A find is a span. Shapes are checked where there is a checksum: Luhn's of cards, ISO 7064's of
IBANs; IPv6 addresses by parsing them.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping

__all__ = ["DETECTORS", "Finder", "Span"]

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)++")
PHONE = re.compile(r"(?<![\w.])(?:\+|00)?\(?\d[\d ().\-/]{5,25}\d(?!\w)")
NATIONAL = re.compile(r"(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}|0\d{1,4}[-/ ]\d[\d -]{4,10}\d")
# Spaces and hyphens of any width, and what is between two letters and not seen
BETWEEN = r"[ \-\u00a0\u00ad\u2000-\u200d\u2010-\u2015\u202f\u2060\u3000\ufe63\ufeff\uff0d]"
GROUPS = re.compile(  # not of a fraction
    rf"(?<![^\W_])(?<!\d\.)(?:\d{{4}}(?:\.\d{{4}}){{3}}(?!\.?\d)|\d++(?:{BETWEEN}\d++)*+)"
)
GROUP = re.compile(r"\d+")
IBAN = re.compile(r"(?<![\w])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
IPV4 = re.compile(rf"(?<![\w.]){OCTET}(?:\.{OCTET}){{3}}(?!\.?\d)(?!\w)")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])")
API_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[\w-]{16,}|es-[\w-]{32,}|[srp]k_(?:live|test)_\w{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|gh[pousr]_\w{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|hf_\w{30,}|xox[abprs]-[\w-]{10,}"
    r"|AIza[\w-]{35}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+"
    r"|-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{0,8192}?-----END (?:[A-Z]+ )*PRIVATE KEY-----)"
)
CARD_DIGITS = range(13, 20)
IBAN_CHARACTERS_MIN = 15
PHONE_DIGITS = range(8, 16)  # ITU-T E.164: at most 15


def _matches(pattern: re.Pattern[str]) -> Finder:
    def find(text: str) -> Iterator[Span]:
        return (match.span() for match in pattern.finditer(text))

    return find


def _phones(text: str) -> Iterator[Span]:
    for match in PHONE.finditer(text):
        found, (start, end) = match[0], match.span()
        if found.startswith("(") and ")" not in found:
            found, start = found[1:], start + 1
        if found.startswith(("+", "00")):
            if sum(c.isdigit() for c in found) in PHONE_DIGITS:
                yield start, end
        elif NATIONAL.fullmatch(found):
            yield start, end


def _cards(text: str) -> Iterator[Span]:
    """Whole groups of digits that together have the length and the checksum of a card."""
    for run in GROUPS.finditer(text):
        groups = [g.span() for g in GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _card_end(text, groups, first)
            if last is None:
                first += 1
            else:
                yield groups[first][0], groups[last][1]
                first = last + 1


def _card_end(text: str, groups: list[Span], first: int) -> int | None:
    """The last group of the longest card that begins with this one."""
    digits, found = "", None
    for last in range(first, len(groups)):
        digits += "".join(str(int(digit)) for digit in text[slice(*groups[last])])  # of any script
        if len(digits) >= CARD_DIGITS.stop:
            break
        if len(digits) in CARD_DIGITS and digits[0] in "23456" and _luhn(digits):
            found = last
    return found


def _luhn(digits: str) -> bool:
    total = 0
    for place, character in enumerate(reversed(digits)):
        value = int(character) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _ibans(text: str) -> Iterator[Span]:
    for match in IBAN.finditer(text):
        start, end = match.span()
        while sum(c != " " for c in text[start:end]) >= IBAN_CHARACTERS_MIN:
            if _is_iban(text[start:end].replace(" ", "")):
                yield start, end
                break
            end -= 1  # a word that follows was taken for a part of it


def _is_iban(iban: str) -> bool:
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _ipv6(text: str) -> Iterator[Span]:
    for match in IPV6.finditer(text):
        try:
            ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        yield match.span()


DETECTORS: Mapping[str, Finder] = {
    "email": _matches(EMAIL),
    "phone": _phones,
    "credit_card": _cards,
    "iban": _ibans,
    "ipv4": _matches(IPV4),
    "ipv6": _ipv6,
    "api_key": _matches(API_KEY),
}
