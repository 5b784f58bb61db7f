"""Every setting, with its default, its bounds and one sentence of meaning.

The sentence is the comment in ``config/edge-store.toml`` and the text of docs/configuration.md, so
it is written for the owner of a box. Durations are seconds, sizes are bytes; the name says which.
Sections are frozen and passed whole to the room they belong to.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from edge_store.config.alerts import AlertsSection
from edge_store.config.engines import EngineSection
from edge_store.config.privacy import PrivacySection
from edge_store.config.profiles import PACES, Pace, ReplicaProfile
from edge_store.config.section import KIB, MIB, Section
from edge_store.config.server import ServerSection
from edge_store.config.working import QueueSection, RepairSection, ResponsesSection

__all__ = [
    "Config",
    "DeviceSection",
    "LogSection",
    "QueueSection",
    "RecorderSection",
    "RepairSection",
    "ReplicaMode",
    "ReplicaProfile",
    "ReplicaSection",
    "ResponsesSection",
    "ServerSection",
    "StoreSection",
]

REPLICA_SCHEMES = ("file:///", "s3://", "sftp://", "gs://", "abs://")


class StoreSection(Section, frozen=True, kw_only=True):
    """The database."""

    path: Annotated[
        str, Meta(min_length=1, description="The SQLite file; relative to this file's folder.")
    ] = "results.db"
    busy_timeout_ms: Annotated[
        int, Meta(ge=0, description="How long SQLite waits for a lock that Litestream holds.")
    ] = 5000
    disk_reserve_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="Below this much free disk the search index is dropped; below three "
            "quarters of it, results are recorded without their bodies; below half of it, new "
            "requests are refused with 507. All of it ends by itself when there is room again.",
        ),
    ] = 256 * MIB
    wal_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB,
            description="With replication off, the WAL is checkpointed when it is "
            "larger than this. With it on, Litestream decides.",
        ),
    ] = 64 * MIB
    allow_vulnerable_sqlite: Annotated[
        bool,
        Meta(
            description="Serve on a SQLite with the WAL-reset bug, which can corrupt the "
            "database. Only for a box without replication."
        ),
    ] = False


class RecorderSection(Section, frozen=True, kw_only=True):
    """Admission and the writer."""

    slots: Annotated[
        int,
        Meta(
            ge=1,
            le=65536,
            description="Requests that may be in flight, from admission to "
            "commit. As many more wait, tenant by tenant in turn; what is more is answered 503, "
            "or 429 to the tenant that has most.",
        ),
    ] = 1024
    bytes_max: Annotated[
        int,
        Meta(
            ge=2 * KIB,
            description="Bytes of all requests and answers that arrive, wait or are in flight; "
            "at least twice server.body_bytes_max. A request more is answered 503, and an answer "
            "that finds no room is cut. A tenant gets no more than 8 times what is left. Memory is "
            "up to some 3 times that, as texts are read out of the bytes.",
        ),
    ] = 512 * MIB
    admission_timeout_s: Annotated[
        float, Meta(ge=0, description="How long a request waits for a free slot.")
    ] = 1.0
    response_bytes_max: Annotated[
        int, Meta(ge=KIB, description="Largest answer; a larger one is cut and recorded as failed.")
    ] = 32 * MIB
    batch_rows_max: Annotated[
        int, Meta(ge=1, le=4096, description="Most results that one COMMIT carries.")
    ] = 256
    batch_bytes_max: Annotated[
        int,
        Meta(
            ge=KIB,
            description="Most bytes of requests and answers that one COMMIT carries; a result that "
            "is larger is committed alone.",
        ),
    ] = 32 * MIB
    commit_timeout_s: Annotated[
        float,
        Meta(gt=0, description="How long a caller waits for its COMMIT before it gets an error."),
    ] = 30.0
    beat_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="While requests are in flight, how often the admission "
            "count is marked in the database.",
        ),
    ] = 1.0
    idempotency_ttl_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a completed answer is given again to who sends its "
            "Idempotency-Key again; 0: never.",
        ),
    ] = 86400.0


class ReplicaMode(StrEnum):
    """Who runs Litestream."""

    CHILD = "child"
    EXTERNAL = "external"


# What a profile decides where it is 0, and the least that it may be else.
LEAST_S = {"monitor_interval_s": 0.1, "snapshot_interval_s": 60.0, "snapshot_retention_s": 60.0}


class ReplicaSection(Section, frozen=True, kw_only=True):
    """Replication by Litestream."""

    enabled: Annotated[
        bool, Meta(description="Whether Litestream runs as a child of the daemon.")
    ] = True
    mode: Annotated[
        ReplicaMode,
        Meta(
            description="child: the daemon runs Litestream. external: a unit of yours does, and "
            "the daemon looks at it, and asks it, through replica.socket: see docs/operations.md."
        ),
    ] = ReplicaMode.CHILD
    socket: Annotated[
        str,
        Meta(
            pattern=r"^(/.{1,106})?$",
            description="The control socket of a Litestream that is external, an absolute path.",
        ),
    ] = ""
    url: Annotated[
        str,
        Meta(
            description="Where replicas go: a prefix, file:///folder, "
            "s3://bucket/prefix?endpoint=https://host&region=us-east-1, "
            "sftp://user@host:22/folder, gs://bucket/prefix or abs://account@container/prefix. "
            "Each box writes below "
            "it under its device id. Empty: the folder `replica` beside the database. Keys "
            "come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or systemd "
            "credentials."
        ),
    ] = ""
    sftp_host_key: Annotated[
        str,
        Meta(
            description="For sftp://: the host's public key, as `ssh-keyscan -t ecdsa HOST` prints "
            "it (AAAA…). No other host is written to. Of a host with several keys Litestream "
            "takes the ecdsa one."
        ),
    ] = ""
    sftp_key_file: Annotated[
        str,
        Meta(
            description="For sftp://: the file of the private key, without a passphrase; relative "
            "to this file's folder. The systemd credential sftp-key comes before it."
        ),
    ] = ""
    profile: Annotated[
        ReplicaProfile,
        Meta(
            description="How far the replica may be behind, and so how many requests it takes: "
            "fast 2 s, balanced 10 s, frugal 60 s: see docs/operations.md. The settings below "
            "that are 0 are the profile's."
        ),
    ] = ReplicaProfile.BALANCED
    monitor_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How often what was committed is sent: the lag, less a second, and the "
            "rate of PUT requests. 0: the profile's.",
        ),
    ] = 0.0
    snapshot_interval_s: Annotated[
        float, Meta(ge=0, description="How often a full snapshot is uploaded. 0: the profile's.")
    ] = 0.0
    snapshot_retention_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How long snapshots are kept: how far back a restore can go; no less than "
            "the interval. 0: the profile's.",
        ),
    ] = 0.0
    local_bytes_max: Annotated[
        int,
        Meta(
            ge=16 * MIB,
            description="Most bytes of the WAL and of Litestream's files on this disk while the "
            "store is away; looked at every 30 s. Past it they are given up, and all of the "
            "database is uploaded later: no result is lost, but the states between cannot be "
            "restored to.",
        ),
    ] = 2048 * MIB
    stop_timeout_s: Annotated[
        float,
        Meta(
            gt=0, description="At a stop, how long to wait for the last commits to be replicated."
        ),
    ] = 20.0
    wait_max_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="The longest `timeout` of the header `x-edge-store-wait: replicated`; a "
            "request that asks for more is answered 400.",
        ),
    ] = 60.0
    owner_check_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How often this box sees that the path is still its own. A clone of it, "
            "and this box itself after a power cut, ask there first and wait for three times that.",
        ),
    ] = 30.0
    drill_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How often the replica is restored, to a scratch file, and compared with "
            "the database; give or take a tenth. The first drill of a box, and the next after one "
            "that failed, comes 5 min after a start. 0: only after an unclean start, and when "
            "asked.",
        ),
    ] = 86400.0
    drill_full_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How long drills may be incremental: they bring the copy of the last one "
            "forward by what is new in the replica. Then one restores from nothing again, as after "
            "an unclean start and a failure. The copy lies beside the database, as large, while "
            "`store.disk_reserve_bytes` are free besides. 0: each drill is a full one, and no copy "
            "is kept.",
        ),
    ] = 604800.0
    drill_idle_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a drill may last with only the processor time that nothing else "
            "wants; then it begins again with a share of about a tenth. 0: with that at once.",
        ),
    ] = 3600.0
    bytes_per_day: Annotated[
        int,
        Meta(ge=0, description="Most bytes that drills may download in 24 hours. 0: no bound."),
    ] = 0

    @property
    def pace(self) -> Pace:
        """The profile's, with what is set by itself."""
        own = {name: getattr(self, name) for name in LEAST_S if getattr(self, name)}
        return msgspec.structs.replace(PACES[self.profile], **own)

    def __post_init__(self) -> None:
        for name, least in LEAST_S.items():
            if 0 < (value := getattr(self, name)) < least:
                raise ValueError(
                    f"replica.{name} = {value:g} must be 0 (the profile's) or at least {least:g}"
                )
        pace = self.pace
        if pace.snapshot_retention_s < pace.snapshot_interval_s:
            raise ValueError(
                f"replica.snapshot_retention_s = {pace.snapshot_retention_s:g} is less than "
                f"replica.snapshot_interval_s = {pace.snapshot_interval_s:g}"
                f"{'' if self.snapshot_interval_s else f' of the profile {self.profile.value}'}: "
                "no state would lie between two snapshots"
            )
        if (self.mode is ReplicaMode.EXTERNAL) != bool(self.socket):
            raise ValueError(
                f"replica.mode = {self.mode.value!r} and replica.socket = {self.socket!r}: a "
                "Litestream that is external has a socket, and only that"
            )
        if self.url and not self.url.startswith(REPLICA_SCHEMES):
            raise ValueError(
                f"replica.url = {self.url.partition('?')[0]!r} must begin with one of "
                f"{', '.join(REPLICA_SCHEMES)}"
            )

    def resolved(self, directory: Path, database: Path) -> "ReplicaSection":
        """With the url filled in: it says everything about the place, but for its keys."""
        url = self.url or f"file://{database.parent / 'replica'}"
        if url.startswith("sftp://"):
            key_file = _absolute(directory, self.sftp_key_file)
            for name, value in (("host_key", self.sftp_host_key), ("key_file", key_file)):
                if value and f"{name}=" not in url.partition("?")[2]:
                    url += f"{'&' if '?' in url else '?'}{name}={quote(value, safe='/+=')}"
        return msgspec.structs.replace(self, url=url)


class DeviceSection(Section, frozen=True, kw_only=True):
    """Which box this is."""

    id: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$",
            description="Name of this box, for good: "
            "lower-case letters, digits and dashes. Empty: the one made by `edge-store init`. "
            "Of two boxes under one id only one replicates.",
        ),
    ] = ""


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSection(Section, frozen=True, kw_only=True):
    """The daemon's log, on standard output."""

    level: Annotated[LogLevel, Meta(description="debug, info, warning or error.")] = LogLevel.INFO


class Config(Section, frozen=True, kw_only=True):
    """All settings. ``directory`` is what relative paths are relative to: the file's own folder."""

    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    engine: EngineSection = EngineSection()
    recorder: RecorderSection = RecorderSection()
    queue: QueueSection = QueueSection()
    repair: RepairSection = RepairSection()
    privacy: PrivacySection = PrivacySection()
    responses: ResponsesSection = ResponsesSection()
    replica: ReplicaSection = ReplicaSection()
    alerts: AlertsSection = AlertsSection()
    device: DeviceSection = DeviceSection()
    log: LogSection = LogSection()

    def __post_init__(self) -> None:
        if self.recorder.bytes_max < 2 * self.server.body_bytes_max:
            raise ValueError(
                f"recorder.bytes_max = {self.recorder.bytes_max} is less than twice "
                f"server.body_bytes_max = {self.server.body_bytes_max}: the largest body that is "
                "allowed might never find room"
            )
        if self.store.allow_vulnerable_sqlite and self.replica.enabled:
            raise ValueError(
                "store.allow_vulnerable_sqlite = true needs replica.enabled = false: a SQLite with "
                "the WAL-reset bug beside Litestream can corrupt the database"
            )

    def resolved(self, directory: Path) -> "Config":
        """The same settings with paths absolute and ``replica.url`` filled in."""
        path = (directory / self.store.path).absolute()
        server = msgspec.structs.replace(
            self.server,
            tls_certificate=_absolute(directory, self.server.tls_certificate),
            tls_key=_absolute(directory, self.server.tls_key),
        )
        sglang = dict(self.engine.sglang)
        model = sglang.get("model_path")
        if isinstance(model, str) and (directory / model).exists():  # else it is a name
            sglang["model_path"] = str((directory / model).absolute())
        return msgspec.structs.replace(
            self,
            server=server,
            engine=msgspec.structs.replace(self.engine, sglang=sglang),
            store=msgspec.structs.replace(self.store, path=str(path)),
            replica=self.replica.resolved(directory, path),
            alerts=msgspec.structs.replace(
                self.alerts, urls_file=_absolute(directory, self.alerts.urls_file)
            ),
        )


def _absolute(directory: Path, path: str) -> str:
    return str((directory / path).absolute()) if path else ""
