"""The settings of the sinks: where results are pushed to as they are committed."""

import re
from enum import StrEnum
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from msgspec import Meta

from edge_store.config.section import Fault, Section

__all__ = ["SECRET_NAME", "VARIABLE", "SinkBegin", "SinkKind", "SinkSection", "require_scheme"]

VARIABLE = "EDGE_STORE_SINK_"  # and the name
# What could be a secret by its name: api_key, ssl_keyfile_password.
SECRET_NAME = re.compile(r"(^|[_-])(key|token|password|secret|credentials?)$", re.IGNORECASE)


class SinkKind(StrEnum):
    """What takes the results."""

    WEBHOOK = "webhook"
    POSTGRES = "postgres"
    MQTT = "mqtt"


SCHEMES = {
    SinkKind.WEBHOOK: ("https", "http"),
    SinkKind.POSTGRES: ("postgresql", "postgres"),
    SinkKind.MQTT: ("mqtts", "mqtt"),
}


TOPIC_FIELDS = ("device", "model", "tenant", "status", "operation")


class SinkBegin(StrEnum):
    """Where one that is new begins."""

    NEWEST = "newest"
    BEGINNING = "beginning"


class SinkSection(Section, frozen=True, kw_only=True):
    """One of ``[[sinks]]``."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
            description="Its name, for good: how far it is, is kept under it.",
        ),
    ]
    kind: Annotated[SinkKind, Meta(description="webhook, postgres or mqtt.")]
    url: Annotated[
        str,
        Meta(
            description="Where it is, without a password: https://host/path, "
            "postgresql://user@host:5432/database, mqtts://user@host:8883. Empty: the secret says."
        ),
    ] = ""
    secret_file: Annotated[
        str,
        Meta(
            description="A file with its secret: the key that web hooks are signed with, or the "
            "password; and the whole URL, where that is a secret. Relative to this file's folder. "
            "It may come from the systemd credential sink-NAME or EDGE_STORE_SINK_NAME instead."
        ),
    ] = ""
    ca_file: Annotated[
        str,
        Meta(
            description="webhook, mqtt: a file (PEM) with the roots that are trusted instead of "
            "the system's, as that of a private CA. Relative to this file's folder. postgres: "
            "sslrootcert in its url."
        ),
    ] = ""
    begin: Annotated[
        SinkBegin,
        Meta(description="Where one that is new begins: newest (with the next result), beginning."),
    ] = SinkBegin.NEWEST
    model: Annotated[str, Meta(description="Only results of this model. Empty: of any.")] = ""
    tenant: Annotated[str, Meta(description="Only this tenant's. Empty: everybody's.")] = ""
    status: Annotated[
        str,
        Meta(
            pattern="^(completed|incomplete|failed|cancelled)?$",
            description="Only those that ended so: completed, incomplete, failed, cancelled.",
        ),
    ] = ""
    operation: Annotated[
        str,
        Meta(
            pattern="^(chat|text_completion|generate|embeddings|prefix_cache)?$",
            description="Only those of this operation: chat, text_completion, generate, "
            "embeddings, prefix_cache (which is never among others).",
        ),
    ] = ""
    bodies: Annotated[
        bool, Meta(description="Prompts and answers go along; else only what is known of them.")
    ] = True
    batch_rows: Annotated[int, Meta(ge=1, le=1000, description="Most results of one delivery.")] = (
        100
    )
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Longest time that one delivery may take.")
    ] = 30.0
    pause_s: Annotated[
        float,
        Meta(gt=0, le=300, description="After a failed delivery; it doubles, up to 5 minutes."),
    ] = 1.0
    behind_s: Annotated[
        float, Meta(gt=0, description="Raise sink_behind when a result has waited for longer.")
    ] = 3600.0
    create_table: Annotated[
        bool, Meta(description="postgres: create the table sglang_inference_results if missing.")
    ] = True
    topic: Annotated[
        str,
        Meta(
            min_length=1,
            pattern=r"^[^#+\x00]*$",
            description="mqtt: the topic of a result; {device}, {model}, {tenant}, {status} and "
            "{operation} are put in.",
        ),
    ] = "edge-store/{device}/results"

    @property
    def credential(self) -> str:
        """The systemd credential with its secret."""
        return f"sink-{self.name}"

    @property
    def variable(self) -> str:
        """The environment's variable with it."""
        return f"{VARIABLE}{self.name.upper().replace('-', '_')}"

    def __post_init__(self) -> None:
        if self.url:
            require_scheme(self.name, self.kind, self.url)
            _require_no_secret(self)
        if self.ca_file and self.kind is SinkKind.POSTGRES:
            raise Fault(
                "sinks: {name!r} is a postgres: its ca_file is sslrootcert in its url, with "
                "sslmode=verify-full",
                name=self.name,
            )
        if self.ca_file and self.url.startswith(("http://", "mqtt://")):
            raise Fault(
                "sinks: {name!r} has a ca_file, and its url has no TLS: it begins with "
                f"{SCHEMES[self.kind][0]}://",
                name=self.name,
            )
        for field in re.findall(r"\{(.*?)\}", self.topic):
            if field not in TOPIC_FIELDS:
                raise Fault(
                    "sinks: the topic of {name!r} has {{{field}}}, which is none",
                    name=self.name,
                    field=field,
                )
        if re.search(r"[{}]", re.sub(r"\{\w+\}", "", self.topic)):
            raise Fault(
                "sinks: the topic of {name!r} has a brace without its other one", name=self.name
            )


def require_scheme(name: str, kind: SinkKind, url: str) -> None:
    """Raises ``ValueError``, which does not quote the URL: it is no address for that kind."""
    try:
        found = urlsplit(url)
        is_one = found.scheme in SCHEMES[kind] and bool(found.hostname) and found.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise Fault(
            f"sinks: the url of {{name!r}} is no address for {kind.value}: it begins with "
            f"{' or '.join(f'{scheme}://' for scheme in SCHEMES[kind])} and a host",
            name=name,
        )


def _require_no_secret(sink: SinkSection) -> None:
    found = urlsplit(sink.url)
    has_secret_option = any(SECRET_NAME.search(option) for option, _ in parse_qsl(found.query))
    is_user = found.username is not None and sink.kind is SinkKind.WEBHOOK
    if found.password is not None or is_user or has_secret_option:
        raise Fault(
            "sinks: the url of {name!r} holds a secret: put that into the credential "
            "{credential}, {variable} or its secret_file",
            name=sink.name,
            credential=sink.credential,
            variable=sink.variable,
        )
