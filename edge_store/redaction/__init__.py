"""Takes out of texts and JSON what is not to be written: the named detectors' finds, and what
matches an owner's own regular expressions. Pure; runs in a worker of ``jsonrepair``: a regular
expression may take exponential time.
"""

from edge_store.redaction.detectors import DETECTORS
from edge_store.redaction.redact import WHOLE, Job, Redacted, carry_out

__all__ = ["DETECTORS", "WHOLE", "Job", "Redacted", "carry_out"]
