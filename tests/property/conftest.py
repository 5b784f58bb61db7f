"""Examples have no deadline of their own, as a busy machine is no defect; tests have pytest's.

Each run tries the same examples, so that it fails by what was changed. Others each time:
``while EDGE_STORE_EXPLORE=1 scripts/test property; do :; done``.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "patient",
    deadline=None,
    derandomize="EDGE_STORE_EXPLORE" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")
