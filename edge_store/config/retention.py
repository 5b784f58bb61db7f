"""How long results are kept, and where they are put away before they are deleted."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.config.section import Section

__all__ = ["RetentionSection"]

MIB = 1024 * 1024
DAYS_MAX = 36_500  # a hundred years
BYTES_MAX = 1 << 50
WEEK_S = 7 * 86_400


class RetentionSection(Section, frozen=True, kw_only=True):
    """What is deleted by itself: nothing, unless one of these is set. See docs/retention.md."""

    keep_days: Annotated[
        float,
        Meta(
            ge=0,
            le=DAYS_MAX,
            description="Results that ended longer ago are deleted, but for those that are pinned "
            "or held; at most 36500. 0: never.",
        ),
    ] = 0.0
    content_days: Annotated[
        float,
        Meta(
            ge=0,
            le=DAYS_MAX,
            description="The exact bodies of requests and answers go after this; the rest of the "
            "result stays: texts of the answer, tokens, times. 0: with the result.",
        ),
    ] = 0.0
    keep_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=BYTES_MAX,
            description="When the database holds more than this, the oldest bodies go, and when "
            "none are left the oldest results; at least 1 MiB. 0: no bound.",
        ),
    ] = 0
    disk_floor_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=BYTES_MAX,
            description="While less than this is free on the database's disk, what is free inside "
            "the file included, the database grows no more: the oldest go as others come, bodies "
            "first. It is above store.disk_reserve_bytes, and at least 1 MiB. 0: off.",
        ),
    ] = 0
    archive: Annotated[
        str,
        Meta(
            description="Where results are put as Parquet before they are deleted: a folder, or an "
            "address as of replica.url. Keys are those of the replica, or with `ARCHIVE_` before "
            'their names. Empty: nowhere. It needs `pip install "edge-store[parquet]"`.'
        ),
    ] = ""
    interval_s: Annotated[
        float, Meta(ge=1, le=WEEK_S, description="How often the daemon looks for what is to go.")
    ] = 3600.0

    @property
    def is_on(self) -> bool:
        """Whether anything is ever deleted."""
        return any((self.keep_days, self.content_days, self.keep_bytes, self.disk_floor_bytes))

    def fault(self, disk_reserve_bytes: int) -> str | None:
        """What is wrong with the bounds of size; None: nothing."""
        if 0 < self.keep_bytes < MIB:
            return (
                f"retention.keep_bytes = {self.keep_bytes} is less than an empty database may "
                f"take, so all results would go: at least {MIB} (1 MiB), or 0 for no bound"
            )
        if 0 < self.disk_floor_bytes < MIB:
            return (
                f"retention.disk_floor_bytes = {self.disk_floor_bytes} is too little to work with: "
                f"at least {MIB} (1 MiB), as 2147483648 (2 GiB), or 0 for no floor"
            )
        if 0 < self.disk_floor_bytes <= disk_reserve_bytes:
            return (
                f"retention.disk_floor_bytes = {self.disk_floor_bytes} is not above "
                f"store.disk_reserve_bytes = {disk_reserve_bytes}: bodies and requests would be "
                f"refused before results go; above it, as {8 * disk_reserve_bytes}, or 0 for no "
                "floor"
            )
        return None

    def resolved(self, directory: Path) -> "RetentionSection":
        """The same with an absolute folder."""
        if not self.archive or "://" in self.archive:
            return self
        archive = (directory / Path(self.archive).expanduser()).absolute()
        return msgspec.structs.replace(self, archive=str(archive))
