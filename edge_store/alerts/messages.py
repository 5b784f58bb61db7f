"""What a person is told: one message when an alarm is raised, reminders, one when it is over."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from edge_store.alerts.alarms import Alarm, AlarmName
from edge_store.clock import rfc3339
from edge_store.config import AlertsSection
from edge_store.result import Record

__all__ = ["Due", "Kind", "Message", "due", "recalled", "wording"]

LATE_MS = 600_000  # a message that comes later says so


class Kind(StrEnum):
    """What a message says of its alarm."""

    RAISED = "raised"
    REMINDER = "reminder"
    RESOLVED = "resolved"


class Message(Record, frozen=True, kw_only=True, tag="message"):
    """One, as it is kept until everybody in ``to`` has it."""

    id: int
    at: int  # UTC ms: when what it says happened
    device: str
    kind: Kind
    alarm: AlarmName
    since: int  # UTC ms: when the alarm was raised
    seen: int = 0  # UTC ms: when what it says was last seen; 0 in what an older version left
    text: str
    fields: dict[str, Any]
    to: tuple[str, ...]


class Due(NamedTuple):
    """A message that is to be written now."""

    kind: Kind
    alarm: Alarm
    at: int


def recalled(message: Message) -> Alarm:
    """The alarm as this message told of it."""
    return Alarm(
        name=message.alarm,
        since=message.since,
        seen=message.seen or message.at,
        message=message.text,
        fields=message.fields,
    )


def due(
    active: tuple[Alarm, ...],
    ended: Mapping[AlarmName, int],
    told: Mapping[AlarmName, Message],
    config: AlertsSection,
    now: int,
    again: Collection[AlarmName] = (),
) -> list[Due]:
    """What is to be told at ``now``. ``ended`` says when alarms were resolved, ``told`` what was
    last told of each; of those ``again`` there is more to tell.
    """
    found = []
    for alarm in active:
        last = told.get(alarm.name)
        if last is not None and last.kind is not Kind.RESOLVED:
            is_long_ago = config.remind_s and _is_over(last.at, config.remind_s, now)
            if is_long_ago or alarm.name in again:
                found.append(Due(Kind.REMINDER, alarm, now))
        elif last is not None and not _is_over(last.at, config.rate_s, now):
            continue
        elif alarm.name.is_urgent or _is_over(alarm.since, config.after_s, now):
            found.append(Due(Kind.RAISED, alarm, alarm.since))
    names = {alarm.name for alarm in active}
    for name, last in told.items():
        if last.kind is Kind.RESOLVED or name in names or name not in ended:
            continue
        if _is_over(ended[name], config.after_s, now):
            alarm = recalled(last)
            found.append(Due(Kind.RESOLVED, alarm, ended[name]))
    return found


def _is_over(since: int, seconds: float, now: int) -> bool:
    """Whether so long has passed; also when the clock was set back to before ``since``."""
    return now - since >= 1000 * seconds or now < since


def wording(message: Message, now: int) -> tuple[str, str]:
    """Title and text."""
    title = f"[{message.device}] {message.alarm.value}: {message.kind.value}"
    lines = [f"{message.alarm.meaning.capitalize()}.", message.text]
    seen = f", last seen at {rfc3339(message.seen)}" if message.seen > message.since else ""
    match message.kind:
        case Kind.RAISED:
            lines.append(f"Raised at {rfc3339(message.since)}{seen}.")
        case Kind.REMINDER:
            lines.append(f"Raised at {rfc3339(message.since)}{seen}, and goes on.")
        case Kind.RESOLVED:
            lines[0] = f"Over: {message.alarm.meaning}."
            lines.append(f"Raised at {rfc3339(message.since)}, over at {rfc3339(message.at)}.")
    if message.fields:
        lines.append(", ".join(f"{name} = {value}" for name, value in message.fields.items()))
    if now - message.at > LATE_MS:
        lines.append(f"Sent at {rfc3339(now)}: there was no way before, or it was quiet.")
    return title, "\n".join(line for line in lines if line)
