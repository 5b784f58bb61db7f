"""Alarms: what of this box needs a person, and how that person comes to know."""

from edge_store.alerts.alarms import Alarm, AlarmName, Alarms

__all__ = ["Alarm", "AlarmName", "Alarms"]
