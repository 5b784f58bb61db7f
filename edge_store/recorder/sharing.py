"""What tenants share, so that one that takes much leaves some to others: places of which there are
only so many, and turns of those that wait. Runs on the event loop.
"""

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from edge_store.errors import Overloaded, RecorderFull, TenantOverShare
from edge_store.recorder.slots import HOLD_FACTOR

__all__ = ["InTurn", "Shares", "has_share"]

T = TypeVar("T")


def has_share(own: int, total: int, places: int) -> bool:
    """Whether a tenant that holds ``own`` of the ``total`` places that are taken may have one more:
    no more than ``HOLD_FACTOR`` times what is left, as with the bytes of ``Slots``.
    """
    return own < HOLD_FACTOR * (places - total)


class Shares:
    """``number`` places, ``what`` they are for, and what to do when there is none."""

    def __init__(self, number: int, what: str, hint: str) -> None:
        self._number = number
        self._what = what
        self._hint = hint
        self._held: Counter[str | None] = Counter()

    def take(self, tenant: str | None, *, anyway: bool = False) -> None:
        """Hold one more place.

        Raises:
            RecorderFull, TenantOverShare: there is none, or none for this tenant (retryable).
        """
        own, total = self._held[tenant], self._held.total()
        if not anyway and not has_share(own, total, self._number):
            raise self._refusal(own, total)
        self._held[tenant] += 1

    def give(self, tenant: str | None) -> None:
        """Give one back."""
        assert self._held[tenant] > 0
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    @contextmanager
    def place(self, tenant: str | None) -> Iterator[None]:
        """``take``, until it is left."""
        self.take(tenant)
        try:
            yield
        finally:
            self.give(tenant)

    def _refusal(self, own: int, total: int) -> Overloaded:
        told = f"{total} {self._what}; at most {self._number} may"
        if own < total and own * len(self._held) > total:
            return TenantOverShare(f"{told}, and {own} are this tenant's", hint=self._hint)
        return RecorderFull(told, hint=self._hint)


class InTurn(Generic[T]):
    """Those that wait: one tenant after the other, within a tenant the urgent ones first, else in
    the order in which they came.
    """

    def __init__(self) -> None:
        # the tenant whose turn it is comes first; each has its urgent ones, and the others
        self._lines: dict[str | None, tuple[deque[T], deque[T]]] = {}

    def __len__(self) -> int:
        return sum(len(urgent) + len(others) for urgent, others in self._lines.values())

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, tenant: str | None, one: T, *, urgent: bool = False) -> None:
        """Let one wait."""
        line = self._lines.setdefault(tenant, (deque(), deque()))
        line[not urgent].append(one)

    def first(self) -> T:
        """Whose turn it is."""
        urgent, others = next(iter(self._lines.values()))
        return (urgent or others)[0]

    def pop(self) -> T:
        """Take it out: the next tenant has the turn."""
        tenant, line = next(iter(self._lines.items()))
        del self._lines[tenant]
        one = (line[0] or line[1]).popleft()
        if any(line):
            self._lines[tenant] = line
        return one

    def remove(self, tenant: str | None, one: T) -> None:
        """Let one wait no more, if it still does."""
        line = self._lines.get(tenant, ())
        for part in line:
            if one in part:
                part.remove(one)
        if line and not any(line):
            del self._lines[tenant]
