"""Keys in the file: what is stored of them, and what becomes of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.records import new_database

import edge_store.keys
from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound
from edge_store.keys import (
    CreateKey,
    KeyState,
    RevokeKey,
    create_key,
    digest_of,
    new_key,
    read_keys,
    revoke_key,
)
from edge_store.recorder.caller import RecordLevel, Right
from edge_store.sqlite import Connection


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    connection, _ = new_database(tmp_path / "results.db")
    yield connection
    connection.close()


def asked(given: str = "es-x", **fields: Any) -> CreateKey:
    return CreateKey(name="app", tenant="shop", sha256=digest_of(given.encode()), **fields)


def test_a_key_is_256_random_bits_that_fit_a_header() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert key.startswith("es-")
        assert len(key) == 3 + 43  # 32 bytes in base64 without padding
        assert key.replace("-", "").replace("_", "").isalnum()
        assert key.isascii()


def test_a_key_comes_back_as_it_was_made(connection: Connection) -> None:
    wanted = asked(
        scopes=(Right.ADMIN, Right.GENERATE, Right.ADMIN),
        requests_per_minute=7,
        concurrent=2,
        record_max=RecordLevel.META,
        expires_at=now_ms() + 60_000,
    )
    made = create_key(connection, wanted)
    assert read_keys(connection) == [made]
    assert made.scopes == (Right.GENERATE, Right.ADMIN)
    same = ("name", "tenant", "requests_per_minute", "concurrent", "record_max", "expires_at")
    for field in (*same, "sha256"):
        assert getattr(made, field) == getattr(wanted, field)


def test_a_key_lives_until_it_expires_or_is_revoked(connection: Connection) -> None:
    now = now_ms()
    made = create_key(connection, asked(expires_at=now + 60_000))
    assert made.state(now) is KeyState.LIVE
    assert made.state(now + 60_000) is KeyState.EXPIRED
    revoke_key(connection, RevokeKey(key_id=made.key_id))
    (found,) = read_keys(connection)
    assert found.state(now) is KeyState.REVOKED


def test_revoking_again_keeps_the_first_time(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_key(connection, asked())
    first = revoke_key(connection, RevokeKey(key_id=made.key_id))
    monkeypatch.setattr(edge_store.keys, "now_ms", lambda: first.revoked_at + 5)
    assert revoke_key(connection, RevokeKey(key_id=made.key_id)) == first


def test_what_is_not_there_cannot_be_revoked(connection: Connection) -> None:
    with pytest.raises(NotFound, match="key_none"):
        revoke_key(connection, RevokeKey(key_id="key_none"))


def test_a_key_that_would_be_over_is_not_made(connection: Connection) -> None:
    with pytest.raises(InvalidRequest) as refused:
        create_key(connection, asked(expires_at=now_ms()))
    assert refused.value.param == "expires_at"
    assert read_keys(connection) == []


def test_there_is_an_end_to_keys(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.keys, "KEYS_MAX", 1)
    create_key(connection, asked("es-1"))
    with pytest.raises(InvalidRequest):
        create_key(connection, asked("es-2"))


@pytest.mark.parametrize(
    "wrong",
    [{"name": ""}, {"tenant": ""}, {"scopes": []}, {"scopes": ["root"]}, {"concurrent": 0},
     {"requests_per_minute": 0}, {"record_max": "some"}, {"sha256": "AAAA"}, {"key": "es-x"}],
)  # fmt: skip
def test_a_malformed_wish_is_refused_at_the_door(wrong: dict[str, Any]) -> None:
    said = json.loads(msgspec.json.encode(asked()))
    msgspec.json.decode(json.dumps(said), type=CreateKey)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps({**said, **wrong}), type=CreateKey)


@pytest.mark.parametrize("field", ["name", "tenant"])
@pytest.mark.parametrize("bad", ["a\x1b[31m", "a\nb", "\x00", "a\x7f", "a\x85", "a\u202eb"])
def test_a_name_that_moves_a_terminal_is_refused(
    connection: Connection, field: str, bad: str
) -> None:
    wanted = msgspec.structs.replace(asked(), **{field: bad})
    with pytest.raises(InvalidRequest, match="cannot be printed, U\\+") as refused:
        create_key(connection, wanted)
    assert refused.value.param == field
    assert str(refused.value).isprintable()
    assert read_keys(connection) == []
    create_key(connection, msgspec.structs.replace(asked(), **{field: "Station 4, Zürich 东"}))
