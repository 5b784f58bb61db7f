"""Takes out of texts what nobody else is to know: secrets always, and names where that is asked.

What is collected has no secrets and no prompts by what it is made of; this is the second wall. Each
name becomes the same pseudonym in every bundle of this box, and cannot be found out from it: it is
made with a key of the box.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge_store.config import Config, SinkKind

__all__ = ["Hiding", "known_secrets"]

HIDDEN = "(hidden)"
SECRET_CHARS_MIN, NAME_CHARS_MIN = 6, 4  # a shorter one would be found everywhere
PLAIN = ("false", "true")
SECRET_BYTES_MAX = 64 * 1024
SECRET_VARIABLE = re.compile(
    r"KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|ALERT_URLS|_SINK_", re.IGNORECASE
)
SHAPES = (  # of secrets, whoever's
    re.compile(r"\b(?:es|sk|pk|rk|ghp|gho|hf|xox[abp]|whsec)[-_][A-Za-z0-9_\-+/=]{12,}"),
    re.compile(r"\bAKIA[0-9A-Z]{12,}"),
    re.compile(r"\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),
    re.compile(r"(?i)(?<=bearer )[^\s\"',]{6,}"),
    re.compile(  # of Azure's shared access: in JSON, in a URL, in one that is a value of another
        r"(?:(?<=sig=)|(?<=sig%3[Dd])|(?<=sig%253[Dd]))[\w%+/=.~-]{6,}"
    ),
    re.compile(r"(?<=://)[^/\s\"'@]*:[^/\s\"'@]*(?=@)"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL),
)
OURS = r"(edge[-_]store)"
ADDRESS = re.compile(r"\b(?!127\.0\.0\.1\b)(?!0\.0\.0\.0\b)(?:\d{1,3}\.){3}\d{1,3}\b(?!\.)")
ADDRESS_6 = re.compile(r"\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b", re.IGNORECASE)
HOST = re.compile(r"(?<=://)(?!127\.0\.0\.1|localhost|host-[0-9a-f]{8})[A-Za-z0-9.\-]+")
PLACE = re.compile(
    r"(?<![\w/.:])/(?:home|root|mnt|media|srv|data|var/lib|opt|tmp|run)(?:/[^\s\"':,;)]+)+"
)


def known_secrets(config: Config | None, environ: Mapping[str, str] = os.environ) -> set[str]:
    """Every secret that this process can find: in its environment, in the unit's credentials, and
    in the files that the settings name. The address of a web hook is one: who has it may post.
    """
    found = {value for name, value in environ.items() if SECRET_VARIABLE.search(name)}
    folder = environ.get("CREDENTIALS_DIRECTORY")
    files = list(Path(folder).glob("*")) if folder else []
    if config is not None:
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


class Hiding:
    """``names``: each with what it is, as in ``{"box-7": "device"}``; none hides secrets alone."""

    def __init__(self, secrets: Iterable[str], names: Mapping[str, str], key: bytes) -> None:
        self._secrets = sorted((each.strip() for each in secrets), key=len, reverse=True)
        self._names = {name: kind for name, kind in names.items() if len(name) >= NAME_CHARS_MIN}
        self._key = key
        self._are_names_hidden = bool(names)

    def pseudonym(self, name: str, kind: str) -> str:
        """The same for the same name, in every bundle of this box."""
        digest = hmac.new(self._key, name.encode(errors="replace"), hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:8]}"

    def __call__(self, text: str) -> str:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for shape in SHAPES:
            text = shape.sub(HIDDEN, text)
        return self._without_names(text) if self._are_names_hidden else text

    def _without_names(self, text: str) -> str:
        for name in sorted(self._names, key=len, reverse=True):
            text = _replaced(text, name, self.pseudonym(name, self._names[name]))
        for shape, kind in ((HOST, "host"), (ADDRESS, "ip"), (ADDRESS_6, "ip"), (PLACE, "path")):
            text = shape.sub(lambda found, kind=kind: self.pseudonym(found[0], kind), text)  # type: ignore[misc]
        return text


def _replaced(text: str, name: str, pseudonym: str) -> str:
    """Everywhere but in our own name, of which a user's or a bucket's may be a part."""
    shapes = [OURS, re.escape(name)]
    longest_first = reversed(shapes) if len(name) > len("edge-store") else shapes
    return re.sub("|".join(longest_first), lambda found: found[1] or pseudonym, text)
