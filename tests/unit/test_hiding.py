"""What a redacted bundle hides, and what it leaves readable."""

import pytest

from edge_store.config import (
    Config,
    EngineSection,
    ReplicaSection,
    RetentionSection,
    SinkKind,
    SinkSection,
    UpstreamSection,
)
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


@pytest.mark.parametrize(
    "text",
    [
        '{"tiktoken": "0.12.0", "tokenizers": "0.21.0", "output_tokens": 1234567}',
        'edge_store_tokens_total{kind="output"} 1234567',
        "-- marks and the digest\n    commit_id INTEGER PRIMARY KEY",
        '{"key": "server.tls_key", "value": "/etc/edge-store/tls.pem", "source": "the file"}',
        '{"key": "idempotency_key_hash", "secret_file": "sink.secret"}',
        "https://docs.example.com/a%20b?page=3&sort=name",
        '{"commits": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}',
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert Hiding(("correct-horse",), {}, b"key")(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://box:ge%2Fheim@host/x", "https://(hidden)@host/x"),
        ("https%3A%2F%2Fbox%3Ageheim%40host%2Fx", "https%3A%2F%2F(hidden)%40host%2Fx"),
        ("authorization: Basic dXNlcjpwYXNz\nhost: a", "authorization: (hidden)\nhost: a"),
        ('{"x-api-key":"a\\"bcdefgh"}', '{"x-api-key":"(hidden)"}'),
        ("set-cookie: sid=12345678; path=/", "set-cookie: (hidden)"),
        ("/v1?key=geheim123&alt=sse", "/v1?key=(hidden)&alt=sse"),
        ("AccountName=a;AccountKey=Zm9v+YmFy/Zg==;E=1", "AccountName=a;AccountKey=(hidden);E=1"),
        (
            "X-Amz-Credential=AKIA%2F2026%2Fs3&X-Amz-Date=1",
            "X-Amz-Credential=(hidden)&X-Amz-Date=1",
        ),
        ("MY_PASSWORD='two words'", "MY_PASSWORD='(hidden)'"),
        ("http://u:p@ssw0rdx@host/a@b failed", "http://(hidden)@host/a@b failed"),
        ("https://GEHEIMTOKEN@host/x", "https://(hidden)@host/x"),
        ("Bearer\tgeheim-x1 failed", "Bearer\t(hidden) failed"),
        ("{b'x-api-key': b'geheim1', b'n': 1}", "{b'x-api-key': b'(hidden)', b'n': 1}"),
        (
            "[(b'authorization', b'Basic dXNl'), (b'n', b'1')]",
            "[(b'authorization', b'(hidden)'), (b'n', b'1')]",
        ),
        (
            '[["set-cookie", "sid=12345678"], ["n", "1"]]',
            '[["set-cookie", "(hidden)"], ["n", "1"]]',
        ),
        ("Authorization: Digest username=\"u\", response='x', a=it's", "Authorization: (hidden)"),
        ('> Cookie: a="b"; it\'s=12\nhost: a', "> Cookie: (hidden)\nhost: a"),
        (
            '{"authorization": "Digest u=\\"a\\", r=\\"b\\"", "n": 1}',
            '{"authorization": "(hidden)", "n": 1}',
        ),
        ('{"cookie": "it\'s=12345", "n": 1}', '{"cookie": "(hidden)", "n": 1}'),
    ],
)
def test_what_is_called_a_secret_is_hidden_alone(text: str, said: str) -> None:
    assert Hiding((), {}, b"key")(text) == said


def test_passwords_in_addresses_of_the_settings_are_known() -> None:
    config = Config(
        engine=EngineSection(upstream=UpstreamSection(base_url="https://u:p%40ss-w0rd@host/v1")),
        replica=ReplicaSection(url="sftp://box:geheim-1@host/r"),
        retention=RetentionSection(archive="sftp://box:geheim-2@host/a"),
    )
    found = known_secrets(config, {})
    assert found == {"p%40ss-w0rd", "geheim-1", "geheim-2"}
    assert Hiding(found, {}, b"key")("login p@ss-w0rd refused") == "login (hidden) refused"


def test_a_name_is_hidden_in_every_spelling_once() -> None:
    names = {"/home/ann/box": "path", "ann": "user", "Ärztehaus 3": "tenant", "host": "tenant"}
    hide = Hiding((), names, b"key")
    path, ann, house, host = (hide.pseudonym(name, kind) for name, kind in names.items())
    assert hide("file=%2Fhome%2Fann%2Fbox%2Fx") == f"file={path}%2Fx"
    assert hide("%252Fhome%252fann%252Fbox of \\u00c4rztehaus 3") == f"{path} of {house}"
    assert hide('{"t": "%C3%84rztehaus%203", "p": "\\/home\\/ann\\/box"}') == (
        f'{{"t": "{house}", "p": "{path}"}}'
    )
    assert hide("host of edge-store") == f"{host} of edge-store"
    assert ann not in hide("/home/ann/box")
