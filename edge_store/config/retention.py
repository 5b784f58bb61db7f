"""How long results are kept, and where they are put away before they are deleted."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_store.config.section import Section

__all__ = ["RetentionSection"]


class RetentionSection(Section, frozen=True, kw_only=True):
    """What is deleted by itself: nothing, unless one of these is set. See docs/retention.md."""

    keep_days: Annotated[
        float,
        Meta(
            ge=0,
            description="Results that ended longer ago are deleted, but for those that are pinned "
            "or held. 0: never.",
        ),
    ] = 0.0
    content_days: Annotated[
        float,
        Meta(
            ge=0,
            description="The exact bodies of requests and answers go after this; the rest of the "
            "result stays: texts of the answer, tokens, times. 0: with the result.",
        ),
    ] = 0.0
    keep_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="When the database holds more than this, the oldest bodies go, and when "
            "none are left the oldest results. 0: no bound.",
        ),
    ] = 0
    disk_floor_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="The same when less than this is free on the database's disk, what is free "
            "inside the file included. Set it above store.disk_reserve_bytes. 0: off.",
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
        float, Meta(ge=1, description="How often the daemon looks for what is to go.")
    ] = 3600.0

    @property
    def is_on(self) -> bool:
        """Whether anything is ever deleted."""
        return any((self.keep_days, self.content_days, self.keep_bytes, self.disk_floor_bytes))

    def resolved(self, directory: Path) -> "RetentionSection":
        """The same with an absolute folder."""
        if not self.archive or "://" in self.archive:
            return self
        archive = (directory / Path(self.archive).expanduser()).absolute()
        return msgspec.structs.replace(self, archive=str(archive))
