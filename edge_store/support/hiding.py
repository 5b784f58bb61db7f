"""Takes out of texts what nobody else is to know: secrets always, and names where that is asked.

What is collected has no secrets and no prompts by what it is made of; this is the second wall. Each
name becomes the same pseudonym in every bundle of this box, and cannot be found out from it: it is
made with a key of the box.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from edge_store.config import Config, SinkKind
from edge_store.support.spelled import (
    Reading,
    base64_around,
    base64_cores,
    orders,
    readings,
    spelled_out,
)

__all__ = ["Hiding", "known_secrets"]

HIDDEN = "(hidden)"
SECRET_CHARS_MIN, NAME_CHARS_MIN = 6, 4  # a shorter one would be found everywhere
PLAIN = ("false", "true")
SECRET_BYTES_MAX = 64 * 1024
SECRET_VARIABLE = re.compile(
    r"KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|ALERT_URLS|_SINK_", re.IGNORECASE
)
CALLED = r"""(?:
    (?<![a-z])(?:sig|sas|pwd|auth) | (?<=[?&])key
    | (?:api|access|account|private|secret|shared|signing|encryption|master|session)[_\ -]?key
    | (?:access|auth|refresh|session|security|identity|id|api|sas)[_-]?token
    | access[_-]?key[_-]?id | (?<![a-z])token | secret | passw(?:or)?d | passphrase
    | signature | credentials? )"""
QUOTED = r"""b? (?: "((?:[^"\\]|\\.){6,})" | '((?:[^'\\]|\\.){6,})' )"""
SHAPES = (  # of secrets, whoever's; where there is a group, that is the secret
    re.compile(
        r"\b(?:es|sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|npm|hf|xox[abpr]|whsec)"
        r"[-_][A-Za-z0-9_\-+/=]{12,}"
    ),
    re.compile(
        r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[A-Za-z0-9_\-]{20,}|\bya29\.[A-Za-z0-9_\-.]{12,}"
    ),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),
    re.compile(r"(?i)\bbearer[ \t]+([^\s\"',]{6,})"),
    re.compile(r"://([^/\s\"':]{0,512}:[^/\s\"']{0,512})@"),  # the last: a password has some
    re.compile(r"(?i)\bhttps?://([^/\s\"':@?#]{1,512})@"),  # a token as the user
    re.compile(  # in one pass where the end is missing, however often it begins
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^-]|-(?!----))*+-----END [A-Z ]*PRIVATE KEY-----"
    ),
    re.compile(  # a value in quotes to their end, one of a header to that of the line
        rf"""(?ix) \b(?:cookie|authorization) ["']? \s* [:=] \s* (?: {QUOTED}
        | ["']? ((?: =["'][^\r\n"']*["'] | [^\r\n"'] ){{6,}}) )"""
    ),
    re.compile(
        r"(?im)^[ \t<>*]*(?:set-|proxy-)?(?:cookie|authorization)[ \t]*:[ \t]*([^\r\n]{6,})"
    ),
    re.compile(  # what is called one: in a URL, a header, JSON, the environment
        rf"""(?ix) {CALLED} ["']? \s* [=:] \s* (?: {QUOTED}
        | ["']?((?:[^\s"'&,;<>\\]|\\(?![\\/"'bfnrtux])){{6,}}) )"""
    ),
    re.compile(  # a pair of a name and a value, as Python shows headers
        rf"""(?ix) [(\[] \s* b?["'] [\w\ -]{{0,64}}? (?: {CALLED} | cookie | authorization ) ["']
        \s* , \s* {QUOTED} \s* [)\]]"""
    ),
)
OURS = r"(edge[-_]store)"
ADDRESS = re.compile(r"\b(?!127\.0\.0\.1\b)(?!0\.0\.0\.0\b)(?:\d{1,3}\.){3}\d{1,3}\b(?!\.)")
ADDRESS_6 = re.compile(r"\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b", re.IGNORECASE)
HOST = re.compile(r"(?<=://)(?!127\.0\.0\.1|localhost|host-[0-9a-f]{8})[A-Za-z0-9.\-]+")
PLACE = re.compile(
    r"(?<![\w/.:])/(?:home|root|mnt|media|srv|data|var/lib|opt|tmp|run)(?:/[^\s\"':,;)]+)+"
)


def known_secrets(
    config: Config | None, environ: Mapping[str, str] = os.environ, more: Iterable[str] = ()
) -> set[str]:
    """Every secret that this process can find: in its environment, in the unit's credentials, and
    in the files that the settings name. The address of a web hook is one: who has it may post.
    ``more``: what else is known.
    """
    found = {value for name, value in environ.items() if SECRET_VARIABLE.search(name)} | set(more)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    files = list(Path(folder).glob("*")) if folder else []
    if config is not None:
        found |= set(_in_urls(config))
        found |= {sink.url for sink in config.sinks if sink.kind is SinkKind.WEBHOOK}
        named = (config.alerts.urls_file, config.server.tls_key)
        files += map(Path, filter(None, (*named, *(sink.secret_file for sink in config.sinks))))
    for file in files:
        try:
            with file.open("rb") as opened:
                found.add(opened.read(SECRET_BYTES_MAX).decode(errors="replace"))
        except OSError:
            continue  # who may not read it cannot have it in the bundle
    words = {
        word
        for text in found
        for line in text.splitlines()
        if not line.startswith("-----")
        for word in line.split()
    }
    return {word for word in words if len(word) >= SECRET_CHARS_MIN and word not in PLAIN}


def _in_urls(config: Config) -> Iterator[str]:
    """The passwords that stand in addresses, and what an HTTP server takes for one."""
    urls = (config.engine.upstream.base_url, config.replica.url, config.retention.archive)
    for url in urls:  # those of sinks may have none
        with suppress(ValueError):  # no address: nothing is sent there
            parts = urlsplit(url)
            token = parts.username if parts.scheme in ("http", "https") else None
            yield parts.password or token or ""


class Hiding:
    """``names``: each with what it is, as in ``{"box-7": "device"}``; none hides secrets alone.
    Secrets are found in every spelling that ``support.spelled`` undoes, and in base64.
    """

    def __init__(self, secrets: Iterable[str], names: Mapping[str, str], key: bytes) -> None:
        known = {each.strip() for each in secrets} - {""}
        self._forms = {form for each in known for form in spelled_out(each)}
        self._cores = {core for each in known for core in base64_cores(each)}
        self._names = {name: kind for name, kind in names.items() if len(name) >= NAME_CHARS_MIN}
        self._named = _named(self._names)
        self._key = key
        self._are_names_hidden = bool(names)

    def pseudonym(self, name: str, kind: str) -> str:
        """The same for the same name, in every bundle of this box."""
        digest = hmac.new(self._key, name.encode(errors="replace"), hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:8]}"

    def __call__(self, text: str) -> str:
        """The text without them."""
        spans = _joined(self._secret_spans(text))
        text = _put(text, ((start, end, HIDDEN) for start, end in spans))
        return self._without_names(text) if self._are_names_hidden else text

    def _secret_spans(self, text: str) -> Iterator[tuple[int, int]]:
        for reading in readings(text):
            yield from self._spans(reading)
        place = 0
        for line in text.splitlines(keepends=True):
            for reading in orders(line):
                for start, end in self._spans(reading):
                    yield place + start, place + end
            place += len(line)

    def _spans(self, reading: Reading) -> Iterator[tuple[int, int]]:
        for form in self._forms:
            for start, end in _places(reading.text, form):
                yield reading.span(start, end)
        for core in self._cores:
            done = 0  # a run of base64 may have it thousands of times
            for start, end in _places(reading.text, core):
                if start >= done:
                    start, done = base64_around(reading.text, start, end)  # noqa: PLW2901
                    yield reading.span(start, done)
        for shape in SHAPES:
            for found in shape.finditer(reading.text):
                yield reading.span(*found.span(found.lastindex or 0))

    def _without_names(self, text: str) -> str:
        text = _put(text, self._named_spans(text))
        for shape, kind in ((HOST, "host"), (ADDRESS, "ip"), (ADDRESS_6, "ip"), (PLACE, "path")):
            text = shape.sub(lambda found, kind=kind: self.pseudonym(found[0], kind), text)  # type: ignore[misc]
        return text

    def _named_spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """The longest first, and none within another."""
        taken = bytearray(len(text))
        found = [
            (*reading.span(*found.span()), found[0])
            for reading in readings(text)
            for found in self._named.finditer(reading.text)
            if not found[1]
        ]
        for start, end, name in sorted(found, key=lambda each: len(each[2]), reverse=True):
            if not any(taken[start:end]):
                taken[start:end] = bytes([1]) * (end - start)
                yield start, end, self.pseudonym(name, self._names[name])


def _named(names: Iterable[str]) -> re.Pattern[str]:
    """Each of them, the longest first, everywhere but in our own name, of which a user's or a
    bucket's may be a part.
    """
    longest_first = sorted(names, key=len, reverse=True)
    longer = [re.escape(name) for name in longest_first if len(name) > len("edge-store")]
    others = map(re.escape, longest_first[len(longer) :])
    return re.compile("|".join([*longer, OURS, *others]))


def _put(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """The text with others in those places; none overlaps another."""
    pieces, end = [], 0
    for start, upto, other in sorted(spans):
        pieces += [text[end:start], other]
        end = upto
    return "".join([*pieces, text[end:]])


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In their order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _places(text: str, part: str) -> Iterator[tuple[int, int]]:
    start = text.find(part)
    while start >= 0:
        yield start, start + len(part)
        start = text.find(part, start + 1)
