"""``[privacy]``: what is taken out of results before they are written."""

import re
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.config.section import Fault, Section

__all__ = ["Detector", "PrivacySection"]

RULES_MAX = 64
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class Detector(StrEnum):
    """What can be found without a rule of one's own."""

    EMAIL = "email"
    PHONE = "phone"
    CREDIT_CARD = "credit_card"
    IBAN = "iban"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    API_KEY = "api_key"


class PrivacySection(Section, frozen=True, kw_only=True):
    """Redaction: what is found is replaced in all that is recorded, never in what passes."""

    detectors: Annotated[
        tuple[Detector, ...],
        Meta(
            description="What to find: email, phone, credit_card (by its checksum), iban (by its "
            "checksum), ipv4, ipv6, api_key."
        ),
    ] = ()
    uploads_kept_s: Annotated[
        int,
        Meta(
            ge=60,
            le=30 * 86400,
            description="Where there are detectors or rules: the longest time for which an "
            "uploaded file, whose bytes stay as they were sent, is kept. A batch that runs has "
            "its input to its end.",
        ),
    ] = 86400
    rules: Annotated[
        dict[str, str],
        Meta(
            description="Regular expressions of your own (Python's), by name, as in "
            "ticket = 'TICKET-[0-9]+'. What takes longer than repair.deadline_s is recorded "
            "without its texts."
        ),
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rules) > RULES_MAX:
            raise Fault(f"privacy.rules has {len(self.rules)} rules; {RULES_MAX} are allowed")
        for name, rule in self.rules.items():
            if not NAME.fullmatch(name) or name in list(Detector):
                raise Fault(
                    "privacy.rules: {name!r} is no name of a rule: lower-case letters, digits and "
                    "_, and no detector's",
                    name=name,
                )
            try:
                re.compile(rule)
            except re.error as exc:
                raise Fault(
                    "privacy.rules.{name} = {rule!r} is no regular expression: {why}",
                    name=name,
                    rule=rule,
                    why=exc,
                ) from exc
