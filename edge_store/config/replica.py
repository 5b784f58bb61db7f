"""What is replicated, where to, and how often it is proven."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from edge_store.config.profiles import PACES, Pace, ReplicaProfile
from edge_store.config.section import MIB, Fault, Section, absolute

__all__ = ["LEAST_S", "ReplicaMode", "ReplicaProfile", "ReplicaSection"]

REPLICA_SCHEMES = ("file:///", "s3://", "sftp://", "gs://", "abs://")


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
            "that failed, comes 5 min after a start. 0: only after an unclean start, after "
            "the replica was begun anew, and when asked.",
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
            "wants, and while requests are in flight only a quarter of the time, which grows to "
            "all of it; then it begins again with a share of about a tenth. 0: with that at once.",
        ),
    ] = 3600.0
    bytes_per_day: Annotated[
        int,
        Meta(
            ge=0,
            description="Most bytes that drills may download in 24 hours. 0: no bound. Less than a "
            "restore downloads, and there are no full drills.",
        ),
    ] = 0

    @property
    def pace(self) -> Pace:
        """The profile's, with what is set by itself."""
        own = {name: getattr(self, name) for name in LEAST_S if getattr(self, name)}
        return msgspec.structs.replace(PACES[self.profile], **own)

    def __post_init__(self) -> None:
        for name, least in LEAST_S.items():
            if 0 < (value := getattr(self, name)) < least:
                raise Fault(
                    f"replica.{name} = {value:g} must be 0 (the profile's) or at least {least:g}"
                )
        pace = self.pace
        if pace.snapshot_retention_s < pace.snapshot_interval_s:
            raise Fault(
                f"replica.snapshot_retention_s = {pace.snapshot_retention_s:g} is less than "
                f"replica.snapshot_interval_s = {pace.snapshot_interval_s:g}"
                f"{'' if self.snapshot_interval_s else f' of the profile {self.profile.value}'}: "
                "no state would lie between two snapshots"
            )
        if (self.mode is ReplicaMode.EXTERNAL) != bool(self.socket):
            raise Fault(
                f"replica.mode = {self.mode.value!r} and replica.socket = {{socket!r}}: a "
                "Litestream that is external has a socket, and only that",
                socket=self.socket,
            )
        if self.url and not self.url.startswith(REPLICA_SCHEMES):
            raise Fault(
                "replica.url = {url!r} must begin with one of " + ", ".join(REPLICA_SCHEMES),
                url=self.url.partition("?")[0],
            )

    def resolved(self, directory: Path, database: Path) -> "ReplicaSection":
        """With the url filled in: it says everything about the place, but for its keys."""
        url = self.url or f"file://{database.parent / 'replica'}"
        if url.startswith("sftp://"):
            key_file = absolute(directory, self.sftp_key_file)
            for name, value in (("host_key", self.sftp_host_key), ("key_file", key_file)):
                if value and f"{name}=" not in url.partition("?")[2]:
                    url += f"{'&' if '?' in url else '?'}{name}={quote(value, safe='/+=')}"
        return msgspec.structs.replace(self, url=url)
