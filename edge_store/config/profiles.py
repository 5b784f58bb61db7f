"""The cost profiles of replication: what each one trades lag for."""

from enum import StrEnum

from edge_store.config.section import Section

__all__ = ["PACES", "Pace", "ReplicaProfile"]


class ReplicaProfile(StrEnum):
    """How far the replica may be behind, and so how many requests it takes."""

    FAST = "fast"
    BALANCED = "balanced"
    FRUGAL = "frugal"


class Pace(Section, frozen=True, kw_only=True):
    """What a profile is made of. Times in seconds.

    ``levels_s``: how often Litestream merges small files into larger ones, level by level. Each
    level uploads everything again, and each but the first downloads it again, too. A checkpoint,
    which moves a WAL of so many pages of 2 KiB into the database, takes two more uploads.
    """

    lag_max_s: float  # what the profile promises while the store takes what it is sent
    monitor_interval_s: float
    snapshot_interval_s: float
    snapshot_retention_s: float
    checkpoint_pages: int
    checkpoint_interval_s: float
    levels_s: tuple[float, ...]
    l0_retention_s: float  # over the first level's, which has to have merged what is removed
    l0_check_s: float
    validation_s: float
    head_every_s: float


HOUR = 3600.0
PACES = {
    ReplicaProfile.FAST: Pace(
        lag_max_s=2.0,
        monitor_interval_s=1.0,
        snapshot_interval_s=6 * HOUR,
        snapshot_retention_s=72 * HOUR,
        checkpoint_pages=4_000,
        checkpoint_interval_s=60.0,
        levels_s=(30.0, 300.0, HOUR),
        l0_retention_s=900.0,
        l0_check_s=120.0,
        validation_s=HOUR / 2,
        head_every_s=10.0,
    ),
    ReplicaProfile.BALANCED: Pace(
        lag_max_s=10.0,
        monitor_interval_s=8.0,
        snapshot_interval_s=12 * HOUR,
        snapshot_retention_s=72 * HOUR,
        checkpoint_pages=16_000,
        checkpoint_interval_s=300.0,
        levels_s=(300.0,),
        l0_retention_s=900.0,
        l0_check_s=300.0,
        validation_s=2 * HOUR,
        head_every_s=30.0,
    ),
    ReplicaProfile.FRUGAL: Pace(
        lag_max_s=60.0,
        monitor_interval_s=55.0,
        snapshot_interval_s=24 * HOUR,
        snapshot_retention_s=72 * HOUR,
        checkpoint_pages=32_000,
        checkpoint_interval_s=900.0,
        levels_s=(900.0,),
        l0_retention_s=HOUR,
        l0_check_s=HOUR / 2,
        validation_s=6 * HOUR,
        head_every_s=120.0,
    ),
}
