"""The changes of this room and of the archive, by name: the daemon makes them for its own passes
and for commands.
"""

from collections.abc import Callable, Mapping
from typing import Any

from edge_store.archive.forgetting import ForgetArchived, forget_archived
from edge_store.archive.ledger import (
    Begin,
    Checked,
    Numbered,
    begin,
    clear_stale,
    drop,
    end,
    end_rewrite,
    intend_rewrite,
    verified,
)
from edge_store.recorder.holds import AddHold, EndHold, add_hold, end_hold
from edge_store.result import Record
from edge_store.retention.deleting import DeleteOld, delete_old

__all__ = ["RETENTION_CHANGES"]

RETENTION_CHANGES: Mapping[str, tuple[type[Record], Callable[..., Any]]] = {
    "archive.begin": (Begin, begin),
    "archive.clear_stale": (Numbered, clear_stale),
    "archive.drop": (Numbered, drop),
    "archive.end": (Numbered, end),
    "archive.end_rewrite": (Checked, end_rewrite),
    "archive.forget": (ForgetArchived, forget_archived),
    "archive.intend_rewrite": (Numbered, intend_rewrite),
    "archive.verified": (Checked, verified),
    "retention.delete": (DeleteOld, delete_old),
    "retention.hold": (AddHold, add_hold),
    "retention.unhold": (EndHold, end_hold),
}
