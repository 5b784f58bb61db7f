"""What replication asks of the store, counted: requests and bytes by verb, day by day.

Litestream's requests are those that its debug log names: its Prometheus numbers leave out LIST,
take an upload in parts for one request, and the removal of many objects at once for many. PUT has
what is billed as such: each step of an upload in parts. Bytes are of objects, without headers.

The sums lie in ``replica-traffic.json`` beside the database, which is not replicated: each write
there would be. They are written every 30 s, so a crash loses so much of them.

What restore drills download counts, whatever becomes of the drill, and is kept by the hour too, as
``replica.bytes_per_day`` bounds it over any 24 hours, not over a date.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sized
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from edge_store.clock import now_ms
from edge_store.result import Record

__all__ = [
    "NOTHING",
    "VERBS",
    "Count",
    "Ledger",
    "Reporting",
    "Reports",
    "Sums",
    "Traffic",
    "Usage",
    "pages_of",
    "read_usage",
    "uncounted",
]

VERBS: Final = ("PUT", "LIST", "GET", "DELETE")

DAYS_KEPT = 62
MONTH_DAYS = 30
STEP_MS = 366 * 86_400_000  # of the clock: more than any box was switched off
HOUR_MS, DAY_HOURS = 3_600_000, 24
LISTED_AT_ONCE = 1000  # objects that one LIST answers, in S3
SIZES_MAX = 4096  # of files that Litestream has merged, and may read again
LTX_KEY = re.compile(r"/0*([0-9a-f]+)/([0-9a-f]{16})-([0-9a-f]{16})\.ltx$")

Count = Callable[[str, int, int], None]  # a verb, requests, bytes


def uncounted(_verb: str, _requests: int, _size: int) -> None:
    """The ``Count`` of what nobody asks for."""


def pages_of(listed: Sized) -> int:
    """How many LISTs these objects took."""
    return 1 + max(0, len(listed) - 1) // LISTED_AT_ONCE


class Traffic(Record, frozen=True, kw_only=True):
    """Requests and bytes by verb."""

    requests: dict[str, int]
    bytes: dict[str, int]


NOTHING = Traffic(requests={}, bytes={})


class Usage(Record, frozen=True, kw_only=True):
    """What was counted from ``since`` to ``at`` (UTC ms), ``since`` being at most 30 days ago;
    ``today``: of this day (UTC).
    """

    since: int
    at: int
    month: Traffic
    today: Traffic


class Sums(Record, frozen=True, kw_only=True):
    """The file. ``days`` by date (UTC); ``drilled``: bytes that drills have downloaded, by the hour
    since 1970, of the last day.
    """

    since: int
    at: int
    days: dict[str, Traffic] = msgspec.field(default_factory=dict)
    drilled: dict[int, int] = msgspec.field(default_factory=dict)


class Reports:
    """Takes a line of Litestream's log for what it tells of the store. ``counts_requests`` is false
    where the log names none (it does for S3): then uploads and removals stand for them.
    """

    def __init__(self, *, counts_requests: bool) -> None:
        self._counts_requests = counts_requests
        self._sizes: dict[tuple[int, str, str], int] = {}
        self._is_misread = False  # it is told once

    def read(self, entry: Mapping[str, Any]) -> "Reporting | None":
        """What it tells; None: nothing, or in words of another version's."""
        try:
            return self._read(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            if not self._is_misread:
                from edge_store.loggers import get_logger  # noqa: PLC0415  (a third of the start of a pull)

                get_logger(__name__).warning(
                    "litestream_misread", message=entry.get("msg"), error=repr(exc)
                )
            self._is_misread = True
            return None

    def _read(self, entry: Mapping[str, Any]) -> "Reporting | None":
        match entry.get("msg"):
            case "s3 request":
                return self._request(entry["s3"]["method"], entry["s3"]["url"])
            case "ltx file uploaded":
                txid = int(entry["maxTXID"], 16) if entry["level"] == 0 else None
                return self._uploaded(entry["size"], txid)
            case "compaction complete":
                txids = entry["txid"]
                while len(self._sizes) >= SIZES_MAX:
                    del self._sizes[next(iter(self._sizes))]
                self._sizes[entry["level"], txids["min"], txids["max"]] = entry["size"]
                return self._uploaded(entry["size"])
            case "snapshot complete":
                return self._uploaded(entry["size"])
            case "deleting ltx file" if not self._counts_requests:
                return Reporting(verb="DELETE", requests=1)
        return None

    def _uploaded(self, size: int, txid: int | None = None) -> "Reporting":
        requests = 0 if self._counts_requests else 1
        return Reporting(verb="PUT", requests=requests, bytes=size, replicated_txid=txid)

    def _request(self, method: str, url: str) -> "Reporting":
        where = urlsplit(url)
        asked = parse_qs(where.query, keep_blank_values=True)
        match method:
            case "GET" if "list-type" in asked:
                return Reporting(verb="LIST", requests=1)
            case "GET" | "HEAD":
                key = LTX_KEY.search(where.path)
                size = self._sizes.get((int(key[1], 16), key[2], key[3]), 0) if key else 0
                return Reporting(verb="GET", requests=1, bytes=size)
            case "DELETE":
                return Reporting(verb="DELETE", requests=1)
            case "POST" if "delete" in asked:
                return Reporting(verb="DELETE", requests=1)
        return Reporting(verb="PUT", requests=1)


class Reporting(Record, frozen=True, kw_only=True):
    """Told by one line. ``replicated_txid``: what the replica holds everything up to by now."""

    verb: str
    requests: int = 0
    bytes: int = 0
    replicated_txid: int | None = None


class Ledger:
    """Adds up. ``since_start`` is of this process, ``usage`` of the last 30 days."""

    def __init__(self, database: Path) -> None:
        self._path = _file(database)
        now = now_ms()
        self._before = _read(self._path) or Sums(since=now, at=now)
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._kept: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._drilled = Counter(self._before.drilled)
        self._objects = NOTHING

    def add(self, verb: str, requests: int, size: int) -> None:
        """Count what Litestream has asked for."""
        self._requests[verb] += requests
        self._bytes[verb] += size

    def add_drill(self, verb: str, requests: int, size: int) -> None:
        """Count what a restore drill has asked for."""
        self.add(verb, requests, size)
        self._drilled[now_ms() // HOUR_MS] += size

    @property
    def drilled_bytes(self) -> int:
        """That drills have downloaded in the last 24 hours, to the hour: rather more than less."""
        return sum(self._recently_drilled().values())

    def _recently_drilled(self) -> dict[int, int]:
        """Of an hour that is still to come the clock was wrong."""
        hour = now_ms() // HOUR_MS
        return {at: size for at, size in self._drilled.items() if hour - DAY_HOURS <= at <= hour}

    def _saw_objects(self, traffic: Traffic) -> None:
        for sums, now, seen in (
            (self._requests, traffic.requests, self._objects.requests),
            (self._bytes, traffic.bytes, self._objects.bytes),
        ):
            for verb, number in now.items():
                sums[verb] += number - seen.get(verb, 0)
        self._objects = traffic

    @property
    def since_start(self) -> Traffic:
        """Of this process."""
        return Traffic(requests=dict(self._requests), bytes=dict(self._bytes))

    @property
    def usage(self) -> Usage:
        """With what earlier processes have counted, as of the last ``keep``."""
        return _usage(self._before)

    def keep(self, objects: Traffic) -> None:
        """Write the sums down. ``objects`` is all that the daemon itself has asked for since its
        start. When they cannot be written, they are the next time, with what came meanwhile.
        """
        self._saw_objects(objects)
        try:
            self._keep()
        except OSError as exc:
            from edge_store.loggers import get_logger  # noqa: PLC0415  (a third of the start of a pull)

            get_logger(__name__).warning("replica_traffic_not_kept", error=exc.strerror)

    def _keep(self) -> None:
        now = max(now_ms(), self._before.at)  # without a battery a clock begins in 1970
        if now - self._before.at > STEP_MS:  # it has begun there, and was set since
            self._before = Sums(since=now, at=now)
        today = _date(now)
        requests, size = self._requests - self._kept[0], self._bytes - self._kept[1]
        days = {day: sums for day, sums in self._before.days.items() if day > _date(now, DAYS_KEPT)}
        days[today] = _added([days.get(today, NOTHING), Traffic(requests=requests, bytes=size)])
        self._drilled = Counter(self._recently_drilled())
        sums = Sums(since=self._before.since, at=now, days=days, drilled=dict(self._drilled))
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_bytes(msgspec.json.encode(sums))
        new.replace(self._path)
        self._before = sums
        self._kept = (self._requests.copy(), self._bytes.copy())


def read_usage(database: Path) -> Usage | None:
    """As the daemon of this database has written it down; None when it never has."""
    sums = _read(_file(database))
    return None if sums is None else _usage(sums)


def _file(database: Path) -> Path:
    return database.with_name("replica-traffic.json")


def _read(path: Path) -> Sums | None:
    """What is not understood is begun anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Sums)
    except (OSError, msgspec.DecodeError):
        return None


def _usage(sums: Sums) -> Usage:
    first = _date(sums.at, MONTH_DAYS - 1)
    began = datetime.fromisoformat(first).replace(tzinfo=UTC)
    return Usage(
        since=max(sums.since, round(began.timestamp() * 1000)),
        at=sums.at,
        month=_added([each for day, each in sums.days.items() if day >= first]),
        today=sums.days.get(_date(sums.at), NOTHING),
    )


def _added(each: list[Traffic]) -> Traffic:
    requests: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for one in each:
        requests.update(one.requests)
        size.update(one.bytes)
    return Traffic(requests=dict(requests), bytes=dict(size))


def _date(at: int, days_before: int = 0) -> str:
    moment = datetime.fromtimestamp(at / 1000, UTC) - timedelta(days=days_before)
    return moment.date().isoformat()
