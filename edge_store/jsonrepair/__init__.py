"""Parses, repairs and validates the JSON that a caller asked for, in worker processes.

``strict`` says what JSON is, ``assess`` what a text is worth, ``worker`` runs that in a process of
its own, ``pool`` keeps those processes and ends the ones that take too long. Only the worker loads
json_repair and jsonschema.
"""

from edge_store.jsonrepair.pool import JsonWorkers
from edge_store.jsonrepair.protocol import Assessed, Constraint, ConstraintKind, Wanted

__all__ = ["Assessed", "Constraint", "ConstraintKind", "JsonWorkers", "Wanted"]
