"""The tour behind ``edge-store demo``: the whole appliance, shown with real processes.

An object store, a daemon, clients with the ``openai`` SDK, a SIGKILL under load, a restart, and the
centre that pulls the replica. Every step checks what it claims. It needs the extra ``demo`` (openai
and rclone), uses loopback only, and leaves no process behind.
"""

from edge_store.tour.processes import find_rclone
from edge_store.tour.story import Kind, Step, run_tour

__all__ = ["Kind", "Step", "find_rclone", "run_tour"]
