"""What a redacted bundle hides, and what it leaves readable."""

import pytest

from edge_store.support.hiding import Hiding


@pytest.mark.parametrize("name", ["edge", "store", "edge-store"])
def test_a_name_that_is_part_of_our_own_leaves_ours_readable(name: str) -> None:
    hide = Hiding((), {name: "user"}, b"key")
    ours = "edge_store_admitted_total 7, edge-store.toml"
    assert hide(ours) == ours
    if name != "edge-store":
        assert hide(f"of {name} alone") == f"of {hide.pseudonym(name, 'user')} alone"


@pytest.mark.parametrize("name", ["edge-store-berlin", "berlin-edge-store", "my-edge"])
def test_a_name_that_has_ours_in_it_is_hidden_whole(name: str) -> None:
    hide = Hiding((), {name: "device"}, b"key")
    assert hide(f"{name}, {name}-2") == ", ".join([hide.pseudonym(name, "device")] * 2) + "-2"
