"""Which page of a list is wanted."""

from edge_store.result import Record

__all__ = ["Paging"]


class Paging(Record, frozen=True, kw_only=True):
    """``after`` is the id of the item before it."""

    limit: int
    after: str | None = None
    is_descending: bool = True
