"""What tenants share is left to nobody alone."""

import pytest

from edge_store.errors import RecorderFull, TenantOverShare
from edge_store.recorder.sharing import InTurn, Shares


def test_a_tenant_leaves_places_to_others() -> None:
    shares = Shares(16, "are uploaded", "wait")
    for _ in range(15):
        shares.take("much")
    with pytest.raises(RecorderFull):
        shares.take("much")
    shares.take("little")
    with pytest.raises(TenantOverShare, match="15 are this tenant's"):
        shares.take("much")
    shares.give("much")
    with shares.place("third"), pytest.raises(RecorderFull):
        shares.take("fourth")
    shares.take("fourth")


def test_a_tenant_alone_may_have_the_only_place() -> None:
    shares = Shares(1, "are uploaded", "wait")
    for _ in range(2):
        with shares.place(None), pytest.raises(RecorderFull):
            shares.take(None)


def test_tenants_take_turns_and_their_urgent_ones_come_first() -> None:
    line: InTurn[str] = InTurn()
    for name in ("a1", "a2", "a3", "b1", "c1"):
        line.add(name[0], name)
    line.add("a", "a!", urgent=True)
    line.add("a", "a!!", urgent=True)
    line.add("d", "d1")
    line.remove("d", "d1")
    line.remove("d", "d1")
    line.remove("a", "b1")
    assert len(line) == 7
    assert line.first() == "a!"
    found = []
    while line:
        found.append(line.pop())
    assert found == ["a!", "b1", "c1", "a!!", "a1", "a2", "a3"]
