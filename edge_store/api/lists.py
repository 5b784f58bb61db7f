"""Lists, as OpenAI has them: which page is asked for, and how it is shown."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from edge_store.api.answers import choice_parameter, integer_parameter
from edge_store.api.described import choice, text, whole
from edge_store.errors import InvalidRequest
from edge_store.paging import Paging

__all__ = ["KEPT_S", "PAGE_MAX", "UNORDERED", "kept_s", "list_of", "paged", "paging_of"]

PAGE_DEFAULT, PAGE_MAX = 20, 100
ORDERS = ("asc", "desc")
KEPT_S = (3600, 30 * 86400)  # OpenAI's bounds


def paged(limit_max: int = PAGE_MAX) -> tuple[Any, ...]:
    """The description of the parameters of a list that has an order."""
    return whole("limit", 1, limit_max), text("after"), choice("order", ORDERS)


UNORDERED = (whole("limit", 1, PAGE_MAX), text("after"))  # and of one that has none


def paging_of(
    request: Request,
    *,
    default: int = PAGE_DEFAULT,
    most: int = PAGE_MAX,
    is_descending: bool | None = True,
) -> Paging:
    """The page that is asked for; ``is_descending`` without ``order``, or None where it is not
    looked at.

    Raises:
        InvalidRequest: it is none.
    """
    limit = integer_parameter(request, "limit", default, 1, most)
    after = request.query_params.get("after")
    if is_descending is None:
        return Paging(limit=limit, after=after)
    order = choice_parameter(request, "order", ORDERS)
    if order is not None:
        is_descending = order == "desc"
    return Paging(limit=limit, after=after, is_descending=is_descending)


def list_of(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def kept_s(name: str, anchor: Any, seconds: Any) -> int:
    """How long a file is kept, by the two fields of ``expires_after``. ``name`` has a place for the
    field.

    Raises:
        InvalidRequest: not as OpenAI has it.
    """
    least, most = KEPT_S
    if anchor != "created_at":
        field = name.format("anchor")
        problem = f"`{field}` = {anchor!r} is not created_at, which it must be"
        raise InvalidRequest(problem, param=field)
    if type(seconds) is not int or not least <= seconds <= most:
        field, shown = name.format("seconds"), repr(seconds)[:40]
        raise InvalidRequest(f"`{field}` = {shown} is not from {least} to {most}", param=field)
    return seconds
