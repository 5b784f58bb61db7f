"""Quiet hours: when only what is urgent is told."""

from datetime import datetime, time, tzinfo

from edge_store.config import AlertsSection

__all__ = ["QuietHours"]


class QuietHours:
    """A span of each day, in local time; past midnight if its end is before its start."""

    def __init__(self, config: AlertsSection) -> None:
        start, _, end = config.quiet_hours.partition("-")
        self._span = (time.fromisoformat(start), time.fromisoformat(end)) if start else None
        self._zone: tzinfo | None = None  # the machine's
        if config.timezone:
            from zoneinfo import ZoneInfo  # noqa: PLC0415  (12 ms, for those who set it)

            self._zone = ZoneInfo(config.timezone)

    def holds(self, at: int) -> bool:
        """Whether they are at ``at`` (UTC ms)."""
        if self._span is None:
            return False
        start, end = self._span
        now = datetime.fromtimestamp(at / 1000, self._zone).time()
        if start < end:
            return start <= now < end
        return now >= start or now < end
