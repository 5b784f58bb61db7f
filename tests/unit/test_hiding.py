"""What a redacted bundle hides, and what it leaves readable."""

import pytest

from edge_store.config import Config, SinkKind, SinkSection
from edge_store.support.hiding import Hiding, known_secrets


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


def test_address_of_a_web_hook_is_a_secret() -> None:
    url = "https://hooks.example.com/services/T0/B0/geheim"
    sinks = (
        SinkSection(name="hook", kind=SinkKind.WEBHOOK, url=url),
        SinkSection(name="mq", kind=SinkKind.MQTT, url="mqtts://box@broker.example.com"),
    )
    hide = Hiding(known_secrets(Config(sinks=sinks), {}), {}, b"key")
    assert hide(f'[{{"url":"{url}"}}]') == '[{"url":"(hidden)"}]'
    assert hide("mqtts://box@broker.example.com") == "mqtts://box@broker.example.com"


def test_signature_of_shared_access_is_a_secret() -> None:
    hide = Hiding((), {}, b"key")
    said = r'"error":"Get \"http://a.net/edge?restype=container\u0026sig=Eh%2FA%3Dx\u0026sp=rl\""'
    assert hide(said) == said.replace("Eh%2FA%3Dx", "(hidden)")
    assert hide("?sp=rl&sig=Eh/Axy+= failed") == "?sp=rl&sig=(hidden) failed"
    for equals in ("%3D", "%3d", "%253D"):
        assert hide(f"a.net%3Fsig{equals}Eh%252FAxy x") == f"a.net%3Fsig{equals}(hidden) x"
