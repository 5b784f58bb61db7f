"""The settings of alarms: when one is raised, and when a person is told."""

from typing import Annotated

from msgspec import Meta

from edge_store.config.section import Fault, Section

__all__ = ["QUIET_HOURS", "AlertsSection"]

TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]"
QUIET_HOURS = rf"^({TIME}-{TIME})?$"


class AlertsSection(Section, frozen=True, kw_only=True):
    """Alarms. Where they are told is a secret, and so no setting: see ``urls_file``."""

    urls_file: Annotated[
        str,
        Meta(
            description="A file with the addresses that alarms go to, one apprise URL a line "
            "(github.com/caronc/apprise); relative to this file's folder. They hold secrets: they "
            "may come from the systemd credential alert-urls or EDGE_STORE_ALERT_URLS instead."
        ),
    ] = ""
    quiet_hours: Annotated[
        str,
        Meta(
            pattern=QUIET_HOURS,
            description="When only urgent alarms are told, as in 22:00-07:00; the others wait for "
            "its end. Empty: never.",
        ),
    ] = ""
    timezone: Annotated[
        str,
        Meta(description="Of the quiet hours, as in Asia/Shanghai. Empty: the machine's own."),
    ] = ""
    after_s: Annotated[
        float,
        Meta(
            ge=0,
            description="An alarm that is not urgent is told once it has held for so long; any is "
            "told to be over once that has held for so long.",
        ),
    ] = 60.0
    rate_s: Annotated[
        float,
        Meta(ge=0, description="An alarm that comes back is not told again sooner than this."),
    ] = 600.0
    remind_s: Annotated[
        float,
        Meta(
            ge=0,
            description="How often an alarm that goes on is told again; 0: never.",
        ),
    ] = 86400.0
    failed_share: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Raise requests_failing when more than this share of the requests of five "
            "minutes failed through no fault of their callers, and there were 20 or more.",
        ),
    ] = 0.2
    queue_age_s: Annotated[
        float,
        Meta(gt=0, description="Raise queue_old when a queued request or batch is older."),
    ] = 43200.0
    replica_lag_s: Annotated[
        float,
        Meta(gt=0, description="Raise replica_behind when the replica has been behind for longer."),
    ] = 3600.0

    def __post_init__(self) -> None:
        if self.timezone:
            from zoneinfo import ZoneInfo  # noqa: PLC0415  (12 ms, for those who set it)

            try:
                ZoneInfo(self.timezone)
            except (OSError, ValueError, LookupError) as exc:
                raise Fault(
                    "alerts.timezone = {zone!r} is no time zone of this machine", zone=self.timezone
                ) from exc
        start, _, end = self.quiet_hours.partition("-")
        if self.quiet_hours and start == end:
            raise Fault("alerts.quiet_hours = {hours!r} has no length", hours=self.quiet_hours)
