"""Tells people what is wrong with a fleet, by the daemon's own means: one alarm for each kind of
finding, with the boxes it is about. A look ends, and another one comes: so what was told lies in
the fleet's folder, as a daemon's lies beside its database.

A kind is told when its first box has it, when other boxes come to it, as a reminder while it goes
on, and when its last box is well again.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from edge_store.alerts.alarms import OF_FLEET, AlarmName, Alarms
from edge_store.alerts.room import TargetState, alert_urls, opened
from edge_store.alerts.spool import NAME
from edge_store.config import AlertsSection
from edge_store.errors import AlreadyRunning, ConfigError
from edge_store.fleet.copies import FOLDER
from edge_store.fleet.find import Unlisted
from edge_store.fleet.health.sweep import Swept
from edge_store.observability.metrics import Metrics

__all__ = ["FleetAlarms", "urls_of"]

NAMED_MAX = 4  # boxes in a message


def urls_of(config: AlertsSection) -> tuple[str, ...]:
    """Those that are told.

    Raises:
        ConfigError: there is nobody, or it cannot be read.
    """
    urls = alert_urls(config)
    if not urls:
        raise ConfigError(
            "--alarms has nobody to tell: there are no alert URLs",
            hint="set alerts.urls_file in fleet.toml, or EDGE_STORE_ALERT_URLS; see docs/alerts.md",
        )
    return urls


class FleetAlarms:
    """What is found in one look, until it is told."""

    def __init__(self) -> None:
        self._boxes: dict[AlarmName, int] = defaultdict(int)
        self._new: dict[AlarmName, list[str]] = defaultdict(list)
        self._old: dict[AlarmName, list[str]] = defaultdict(list)

    def add(self, swept: Swept) -> None:
        """One box."""
        for finding in swept.box.findings:
            said = self._new if finding.name in swept.new else self._old
            self._boxes[finding.alarm] += 1
            if len(said[finding.alarm]) < NAMED_MAX:
                said[finding.alarm].append(f"{swept.box.device_id}: {finding.message}")

    def add_away(self, unlisted: Sequence[Unlisted]) -> None:
        """Stores that do not answer."""
        for each in unlisted[:NAMED_MAX]:
            self._old[AlarmName.FLEET_STORE_AWAY].append(f"{each.store}: {each.error}")
        if unlisted:
            self._boxes[AlarmName.FLEET_STORE_AWAY] = len(unlisted)

    @property
    def texts(self) -> dict[AlarmName, str]:
        """What is said of each kind that was found."""
        return {name: self._text(name) for name in self._boxes}

    async def tell(
        self,
        urls: tuple[str, ...],
        config: AlertsSection,
        folder: Path,
        others_told: Collection[str] = (),
    ) -> tuple[TargetState, ...]:
        """Raise and resolve, and have it sent. Returns how that went. ``others_told``: what is
        wrong with boxes that were not looked at; that is not over.

        Raises:
            AlreadyRunning: another process tells about this folder.
        """
        alarms = Alarms(Metrics())
        alarms.device = folder.name
        try:
            told = await opened(urls, config, folder / FOLDER / NAME, alarms)
        except BlockingIOError:
            raise AlreadyRunning(f"another process tells of {folder}", hint="wait for it") from None
        try:
            texts = self.texts
            for name in AlarmName:
                if name in texts:
                    alarms.raise_(name, texts[name], boxes=self._boxes[name])
                elif name.is_of_fleet and name.value.removeprefix(OF_FLEET) not in others_told:
                    alarms.resolve(name)
            await told.tell_once([name for name in texts if self._new[name]])
            return told.state
        finally:
            await told.close()

    def _text(self, name: AlarmName) -> str:
        """The new ones first."""
        named = [*self._new[name], *self._old[name]][:NAMED_MAX]
        more = self._boxes[name] - len(named)
        rest = f"\nand {more} more: `edge-store fleet health` lists them" if more else ""
        return "\n".join(named) + rest
