"""Keeps what is to be told until it has been: a file beside the database, one JSON line a step.

A message is on the disk before it is sent, and what was last told of each alarm outlives the
daemon: a restart repeats nothing and forgets nothing. A message for nobody is kept, too: by it the
alarm is known after a restart. It is no table, since each COMMIT would be
replicated. Bounded: past ``MESSAGES_MAX`` that wait, the oldest is given up. On a disk that takes
nothing it goes on in memory, and all of it is written with the next step that works. One process
at a time has it. ``add``, ``done`` and ``take`` are for one thread, and only think; ``open``,
``write`` and ``close`` wait for the disk, and are for another, one after the other.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.alerts.alarms import AlarmName
from edge_store.alerts.messages import Due, Kind, Message, recalled
from edge_store.loggers import get_logger
from edge_store.result import Record

__all__ = ["NAME", "Spool"]

log = get_logger(__name__)

NAME = "alerts.jsonl"
MESSAGES_MAX = 256
FILE_BYTES_MAX = 512 * 1024  # then it is written anew, with what still counts
READ_BYTES_MAX = 4 * FILE_BYTES_MAX  # never ours if it is longer
MODE = 0o600


class Done(Record, frozen=True, kw_only=True, tag="done"):
    """A message has reached one of those it is for, or is given up for them."""

    id: int
    to: str


class Step(NamedTuple):
    """What the file lacks, or all of it."""

    content: bytes
    is_whole: bool


class Spool:
    """``targets`` are the names of those who are told now; what waits for others is given up."""

    def __init__(self, path: Path, targets: Iterable[str]) -> None:
        self._path = path
        self._targets = tuple(targets)
        self._file: int | None = None
        self._size = 0
        self._is_behind = False  # the file lacks what could not be written
        self._is_told = False  # that it cannot be written
        self._unwritten: list[bytes] = []
        self._waiting: dict[int, tuple[Message, set[str]]] = {}
        self._newest: dict[AlarmName, Message] = {}  # about each alarm, also those for nobody
        self._heard: dict[AlarmName, Message] = {}  # of these the newest for somebody
        self._next_id = 1
        self.standing: tuple[Message, ...] = ()  # of alarms that were raised when it was opened
        self.over: tuple[Message, ...] = ()  # of others, that nobody has heard is over

    @property
    def told(self) -> Mapping[AlarmName, Message]:
        """The last message about each alarm; where there is anybody to tell, the last that was for
        somebody.
        """
        return self._heard if self._targets else self._newest

    def pending(self, target: str) -> list[Message]:
        """What waits for one of them, in order."""
        return [message for message, left in self._waiting.values() if target in left]

    def open(self) -> None:
        """Read what there is. Raises OSError when that cannot be, or another process has it."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(os.pread(self._file, READ_BYTES_MAX, 0))
            newest, heard = self._newest.values(), self._heard
            self.standing = tuple(each for each in newest if each.kind is not Kind.RESOLVED)
            self.over = tuple(
                each
                for each in newest
                if each.kind is Kind.RESOLVED
                and each.alarm in heard
                and heard[each.alarm].kind is not Kind.RESOLVED
            )
        except OSError:
            self.close()
            raise
        self._replace(self._whole())

    def close(self) -> None:
        """Let another process have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def end_unheard(self, ended: Mapping[AlarmName, int]) -> bool:
        """Of alarms that nobody was told of, note for the next start that they have ``ended`` (UTC
        ms); whether there are any. Where there is nobody to tell, each end is a message anyway.
        """
        found = [
            each
            for each in self._newest.values()
            if self._targets
            and not each.to
            and each.kind is not Kind.RESOLVED
            and each.alarm in ended
        ]
        for each in found:
            due = Due(Kind.RESOLVED, recalled(each), ended[each.alarm])
            self._keep(self._message(due, each.device, ()))
        return bool(found)

    def add(self, due: Due, device: str) -> None:
        """Keep a message for all targets."""
        message = self._message(due, device, self._targets)
        if message.kind is Kind.REMINDER:
            self._drop_reminders(message.alarm)
        if len(self._waiting) >= MESSAGES_MAX:
            oldest = next(iter(self._waiting))
            log.error("alert_dropped", id=oldest, alarm=self._waiting[oldest][0].alarm.value)
            self._give_up(oldest)
        self._keep(message)

    def _message(self, due: Due, device: str, to: tuple[str, ...]) -> Message:
        return Message(
            id=self._next_id,
            at=due.at,
            device=device,
            kind=due.kind,
            alarm=due.alarm.name,
            since=due.alarm.since,
            seen=due.alarm.seen,
            text=due.alarm.message,
            fields=due.alarm.fields,
            to=to,
        )

    def done(self, message_id: int, target: str) -> None:
        """``target`` has it."""
        self._keep(Done(id=message_id, to=target))

    def _keep(self, record: Message | Done) -> None:
        self._note(record)
        self._unwritten.append(msgspec.json.encode(record) + b"\n")

    def take(self) -> Step:
        """What is to be written: what is new; or all that counts, if the file must begin anew."""
        new = b"".join(self._unwritten)
        self._unwritten.clear()
        if self._is_behind or self._size + len(new) > FILE_BYTES_MAX:
            return Step(self._whole(), is_whole=True)
        return Step(new, is_whole=False)

    def write(self, step: Step) -> None:
        """Put on the disk what ``take`` gave."""
        if self._file is None:
            return
        if step.is_whole:
            self._replace(step.content)
            return
        try:
            _write_all(self._file, step.content, self._size)
            self._size += len(step.content)
        except OSError as exc:
            self._fell_behind(exc)

    def _drop_reminders(self, alarm: AlarmName) -> None:
        """The newest says the same."""
        for message, _ in list(self._waiting.values()):
            if message.kind is Kind.REMINDER and message.alarm is alarm:
                self._give_up(message.id)

    def _give_up(self, message_id: int) -> None:
        for target in tuple(self._waiting[message_id][1]):
            self.done(message_id, target)

    def _note(self, record: Message | Done) -> None:
        if isinstance(record, Message):
            self._next_id = max(self._next_id, record.id + 1)
            self._newest[record.alarm] = record
            if record.to:
                self._heard[record.alarm] = record
            if left := set(record.to).intersection(self._targets):
                self._waiting[record.id] = (record, left)
            return
        _, left = self._waiting.get(record.id, (None, set()))
        left.discard(record.to)
        if not left:
            self._waiting.pop(record.id, None)

    def _read(self, content: bytes) -> None:
        for line in content.split(b"\n")[:-1]:  # what has no end was cut while it was written
            try:
                self._note(msgspec.json.decode(line, type=Message | Done))
            except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                log.error("alert_not_read", path=str(self._path), error=str(exc))

    def _whole(self) -> bytes:
        """What was last told, what waits, and who has that already."""
        kept = {message.id: message for message in (*self._newest.values(), *self._heard.values())}
        kept.update((message.id, message) for message, _ in self._waiting.values())
        records: list[Message | Done] = [kept[key] for key in sorted(kept)]
        for message in kept.values():
            left = self._waiting[message.id][1] if message.id in self._waiting else set()
            records += [Done(id=message.id, to=to) for to in message.to if to not in left]
        return b"".join(msgspec.json.encode(record) + b"\n" for record in records)

    def _replace(self, content: bytes) -> None:
        """Write the file anew, in place of the old one."""
        beside = self._path.with_name(f"{NAME}.new")
        try:
            new = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE)
            try:
                fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write_all(new, content, 0)
                beside.replace(self._path)
                _flush_folder(self._path.parent)
            except OSError:
                os.close(new)
                raise
        except OSError as exc:
            self._fell_behind(exc)
            return
        self.close()
        self._file, self._size = new, len(content)
        self._is_behind = self._is_told = False

    def _fell_behind(self, exc: OSError) -> None:
        if not self._is_told:
            log.error("alerts_not_spooled", path=str(self._path), error=str(exc))
        self._is_behind = self._is_told = True


def _write_all(file: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(file, content, at)
        content, at = content[written:], at + written
    os.fdatasync(file)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
