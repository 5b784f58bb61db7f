"""Examples have no deadline of their own, as a busy machine is no defect; tests have pytest's."""

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
