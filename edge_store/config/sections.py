"""Every setting, with its default, its bounds and one sentence of meaning.

The sentence is the comment in ``config/edge-store.toml`` and the text of docs/configuration.md, so
it is written for the owner of a box. Durations are seconds, sizes are bytes; the name says which.
Sections are frozen and passed whole to the room they belong to.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.config.alerts import AlertsSection
from edge_store.config.engines import EngineSection
from edge_store.config.privacy import PrivacySection
from edge_store.config.replica import ReplicaMode, ReplicaProfile, ReplicaSection
from edge_store.config.retention import RetentionSection
from edge_store.config.section import KIB, MIB, Fault, Section, absolute, is_there
from edge_store.config.server import ServerSection
from edge_store.config.sinks import SinkSection
from edge_store.config.working import (
    QueueSection,
    RepairSection,
    ResponsesSection,
    SearchSection,
)

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
    "RetentionSection",
    "SearchSection",
    "ServerSection",
    "StoreSection",
]


QUERY_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)


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
            description="With replication off, the WAL is moved into the database when it is "
            "larger than this, and begun anew. It grows on while a reader is in the way: over four "
            "times this, it is cut off, for which COMMITs wait up to 0.2 s every 10 s until the "
            "reader lets go. With it on, Litestream decides.",
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
            "3.3 to 6 times that, as texts are read out of the bytes (measured): take a sixth of "
            "what the box has to spare.",
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
    search: SearchSection = SearchSection()
    replica: ReplicaSection = ReplicaSection()
    retention: RetentionSection = RetentionSection()
    alerts: AlertsSection = AlertsSection()
    device: DeviceSection = DeviceSection()
    log: LogSection = LogSection()
    sinks: Annotated[
        tuple[SinkSection, ...],
        Meta(
            max_length=16,
            description="Where results are pushed to as they are committed; one table for each: "
            "see sinks.md.",
        ),
    ] = ()
    queries: Annotated[
        dict[str, str],
        Meta(
            description='SQL by name, for `edge-store query @NAME`, as in slow = "select id from '
            'results where latency_ms > :ms". One of the same name in the database is hidden.'
        ),
    ] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.queries:
            if not QUERY_NAME.fullmatch(name):
                raise Fault("queries.{name}: a name is like slow or slow-2", name=name)
        if self.recorder.bytes_max < 2 * self.server.body_bytes_max:
            raise Fault(
                f"recorder.bytes_max = {self.recorder.bytes_max} is less than twice "
                f"server.body_bytes_max = {self.server.body_bytes_max}: the largest body that is "
                "allowed might never find room"
            )
        if fault := self.retention.fault(self.store.disk_reserve_bytes):
            raise Fault(fault)
        names = [sink.name for sink in self.sinks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Fault("sinks: two are named {name!r}", name=twice[0])
        if self.store.allow_vulnerable_sqlite and self.replica.enabled:
            raise Fault(
                "store.allow_vulnerable_sqlite = true needs replica.enabled = false: a SQLite with "
                "the WAL-reset bug beside Litestream can corrupt the database"
            )

    def resolved(self, directory: Path) -> "Config":
        """The same settings with paths absolute and ``replica.url`` filled in."""
        path = (directory / self.store.path).absolute()
        server = msgspec.structs.replace(
            self.server,
            tls_certificate=absolute(directory, self.server.tls_certificate),
            tls_key=absolute(directory, self.server.tls_key),
        )
        sglang = dict(self.engine.sglang)
        model = sglang.get("model_path")
        if isinstance(model, str) and is_there(directory / model):  # else it is a name
            sglang["model_path"] = str((directory / model).absolute())
        return msgspec.structs.replace(
            self,
            server=server,
            engine=msgspec.structs.replace(self.engine, sglang=sglang),
            store=msgspec.structs.replace(self.store, path=str(path)),
            replica=self.replica.resolved(directory, path),
            retention=self.retention.resolved(directory),
            alerts=msgspec.structs.replace(
                self.alerts, urls_file=absolute(directory, self.alerts.urls_file)
            ),
            sinks=tuple(
                msgspec.structs.replace(
                    sink,
                    secret_file=absolute(directory, sink.secret_file),
                    ca_file=absolute(directory, sink.ca_file),
                )
                for sink in self.sinks
            ),
        )
