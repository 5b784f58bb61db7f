"""What an operator may have changed, by name: while the daemon runs over its admin socket, while it
is stopped by the command itself. Either way it is one function in one transaction.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from edge_store.forget.carry import ForgetKept, ForgetResults, forget_kept, forget_results
from edge_store.forget.lines import Overwrite, overwrite
from edge_store.keys import CreateKey, RevokeKey, create_key, revoke_key
from edge_store.logs.pins import Pin, pin
from edge_store.queue.entries import Retry, Switch, retry_lines, set_switch
from edge_store.repair import ApplyRepairs, apply_repairs
from edge_store.result import Record
from edge_store.retention.changes import RETENTION_CHANGES
from edge_store.saved import RemoveQuery, SaveQuery, remove_query, save_query
from edge_store.sinks.orders import RetrySink, SkipSink, retry_sink, skip_sink

__all__ = ["CHANGES", "Change"]


class Change(NamedTuple):
    """``carry_out(connection, params)``: its value goes to who asked, as JSON."""

    params: type[Record]
    carry_out: Callable[..., Any]


CHANGES: Mapping[str, Change] = {
    "forget.kept": Change(ForgetKept, forget_kept),
    "forget.lines": Change(Overwrite, overwrite),
    "forget.results": Change(ForgetResults, forget_results),
    "keys.create": Change(CreateKey, create_key),
    "keys.revoke": Change(RevokeKey, revoke_key),
    "logs.pin": Change(Pin, pin),
    "repair.apply": Change(ApplyRepairs, apply_repairs),
    "queries.remove": Change(RemoveQuery, remove_query),
    "queries.save": Change(SaveQuery, save_query),
    "queue.retry": Change(Retry, retry_lines),
    "queue.switch": Change(Switch, set_switch),
    **{name: Change(*change) for name, change in RETENTION_CHANGES.items()},
    "sinks.retry": Change(RetrySink, retry_sink),
    "sinks.skip": Change(SkipSink, skip_sink),
}
