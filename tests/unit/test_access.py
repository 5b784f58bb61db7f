"""Who may come in: keys, rights and limits, as the gate asks for them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.asgi import answered

import edge_store.api.access
from edge_store.api.access import Access, is_loopback
from edge_store.api.gate import Gate
from edge_store.config import RecorderSection, ServerSection
from edge_store.engine import Receive, Scope, Send
from edge_store.errors import (
    ConcurrencyLimited,
    Forbidden,
    KeyExpired,
    KeyRevoked,
    RateLimited,
    Unauthorized,
)
from edge_store.keys import Key, digest_of
from edge_store.observability.metrics import Metrics
from edge_store.recorder.caller import Caller, RecordLevel, Right, caller_of
from edge_store.recorder.slots import Slots

GIVEN = b"es-of-the-test"
CHAT = "/v1/chat/completions"
LAN = ("192.168.1.7", 4711)


def key(given: bytes = GIVEN, **changes: Any) -> Key:
    fields: dict[str, Any] = {
        "key_id": "key_1",
        "name": "test",
        "tenant": "t1",
        "scopes": (Right.GENERATE, Right.READ_OWN),
        "requests_per_minute": None,
        "concurrent": None,
        "record_max": RecordLevel.FULL,
        "sha256": digest_of(given),
        "created_at": 0,
        "expires_at": None,
        "revoked_at": None,
    }
    return Key(**{**fields, **changes})


def scope(
    path: str = CHAT,
    method: str = "POST",
    header: tuple[bytes, bytes] | None = (b"authorization", b"Bearer " + GIVEN),
    client: tuple[str, int] | None = LAN,
) -> Scope:
    headers = [header] if header else []
    server = ("192.168.1.2", 8642)
    return {"path": path, "method": method, "headers": headers, "client": client, "server": server}


def test_a_key_says_whose_request_it_is_and_what_it_may() -> None:
    limited = key(scopes=(Right.GENERATE,), record_max=RecordLevel.META)
    visit = Access([limited]).visit(scope())
    caller = visit.caller
    assert (caller.tenant, caller.key_id, caller.record_max) == ("t1", "key_1", RecordLevel.META)
    assert caller.rights == {Right.GENERATE}
    assert visit.has_key


@pytest.mark.parametrize(
    "header",
    [(b"authorization", b"Bearer " + GIVEN), (b"authorization", b"bearer  " + GIVEN),
     (b"x-api-key", GIVEN)],
)  # fmt: skip
def test_a_key_is_found_where_the_sdks_put_it(header: tuple[bytes, bytes]) -> None:
    assert Access([key()]).visit(scope(header=header)).caller.tenant == "t1"


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (CHAT, None),
        (CHAT, (b"authorization", GIVEN)),
        (CHAT, (b"authorization", b"Basic " + GIVEN)),
        (CHAT, (b"authorization", b"Bearer ")),
        (CHAT, (b"authorization", b"Bearer " + GIVEN + b"x")),
        (CHAT, (b"cookie", b"key=" + GIVEN)),
        (f"{CHAT}?api_key={GIVEN.decode()}", None),
    ],
)
def test_without_a_key_nobody_comes_in_once_there_is_one(
    path: str, header: tuple[bytes, bytes] | None
) -> None:
    access = Access([key()])
    with pytest.raises(Unauthorized) as refused:
        access.visit(scope(path, header=header))
    assert refused.value.code == "unauthorized"


def test_what_is_over_is_told_by_its_code_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_store.api.access, "now_ms", lambda: 1000)
    Access([key(expires_at=1001)]).visit(scope())
    with pytest.raises(KeyExpired) as expired:
        Access([key(expires_at=1000)]).visit(scope())
    with pytest.raises(KeyRevoked) as revoked:
        Access([key(revoked_at=999)]).visit(scope())
    with pytest.raises(Unauthorized) as unknown:
        Access([key(b"another")]).visit(scope())
    assert str(expired.value) == str(revoked.value) == str(unknown.value)


def test_a_box_whose_keys_are_all_over_stays_closed() -> None:
    with pytest.raises(Unauthorized):
        Access([key(revoked_at=1)]).visit(scope(header=None))


def test_without_any_key_a_box_is_open_and_its_tenants_are_who_share_one() -> None:
    access = Access()
    assert access.visit(scope(header=None)).caller.tenant is None
    found = access.visit(scope())
    assert found.caller == caller_of({"headers": [(b"authorization", b"Bearer " + GIVEN)]})
    assert found.caller.sees_all
    assert not found.has_key, "it may be the engine's"


def test_who_lacks_a_right_is_told_which() -> None:
    for path, method, lacking in (
        (CHAT, "POST", "generate"),
        ("/v1/results", "GET", "read_own or read_all"),
        (f"{CHAT}/x", "POST", "generate"),
    ):
        with pytest.raises(Forbidden, match=f"the right {lacking}$"):
            Access([key(scopes=(Right.ADMIN,))]).visit(scope(path, method))
    with pytest.raises(Forbidden, match=r"the right read_own or read_all$"):
        Access([key(scopes=(Right.GENERATE,))]).visit(scope(f"{CHAT}/x", "POST"))


def test_the_admin_key_of_the_environment_may_do_everything() -> None:
    for keys in ([], [key(b"another")]):
        access = Access(keys, admin_key=GIVEN.decode())
        for method, path in (("POST", "/flush_cache"), ("GET", "/v1/results"), ("POST", CHAT)):
            assert access.visit(scope(path, method)).caller.rights == set(Right)


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ("::1", 1), ("192.168.1.2", 1)])
def test_health_and_metrics_are_open_on_the_same_machine(client: tuple[str, int]) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        Access([key()]).visit(scope(path, "GET", None, client))


@pytest.mark.parametrize("client", [LAN, None])
def test_elsewhere_only_the_sign_of_life_is_open(client: tuple[str, int] | None) -> None:
    access = Access([key()])
    access.visit(scope("/livez", "GET", None, client))
    for path in ("/readyz", "/metrics"):
        with pytest.raises(Unauthorized):
            access.visit(scope(path, "GET", None, client))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr("edge_store.api.access.time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_a_minute_has_so_many_requests_and_they_come_back_evenly(
    clock: Callable[[float], None],
) -> None:
    access = Access([key(requests_per_minute=30)])
    for _ in range(30):
        with access.visit(scope()).use:
            pass
    use = access.visit(scope()).use
    with pytest.raises(RateLimited) as refused, use:
        pass
    assert (refused.value.http_status, refused.value.retry_after_s) == (429, 2)
    assert dict(use.headers) == {
        b"x-ratelimit-limit-requests": b"30",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"60.000s",
    }
    clock(2.0)
    with access.visit(scope()).use:
        pass
    with pytest.raises(RateLimited), access.visit(scope()).use:
        pass
    clock(3600.0)
    assert [_comes_in(access) for _ in range(31)] == [True] * 30 + [False]


def _comes_in(access: Access) -> bool:
    try:
        with access.visit(scope()).use:
            return True
    except RateLimited:
        return False


def test_so_many_are_in_flight_and_one_that_ends_makes_room() -> None:
    access = Access([key(concurrent=2, requests_per_minute=3)])
    with access.visit(scope()).use, access.visit(scope()).use:
        with pytest.raises(ConcurrencyLimited), access.visit(scope()).use:
            pass
        access.renew([key(concurrent=2, requests_per_minute=3), key(b"new", key_id="key_2")])
        with pytest.raises(ConcurrencyLimited), access.visit(scope()).use:
            pass
    with access.visit(scope()).use:  # the two that were refused cost nothing of the minute
        pass


def test_a_new_table_holds_at_once() -> None:
    access = Access([key()])
    access.visit(scope())
    access.renew([key(revoked_at=1)])
    with pytest.raises(KeyRevoked):
        access.visit(scope())


def test_loopback_is_what_no_other_machine_reaches() -> None:
    for address in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(address)
    everywhere = ("0.0.0.0", "::")  # noqa: S104  (not bound here)
    for address in (*everywhere, "192.168.1.2", "fe80::1%eth0", "", "box.example"):
        assert not is_loopback(address)


class Engine:
    """Answers with the status it is asked for, and keeps the headers it saw."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 200

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.headers = scope["headers"]
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})


def gate_of(engine: Engine, *keys: Key) -> Gate:
    return Gate(
        recorder=cast("Any", SimpleNamespace(slots=Slots(RecorderSection()))),
        engine=cast("Any", engine),
        ours=engine,
        config=ServerSection(),
        metrics=Metrics(),
        access=Access(keys),
    )


@pytest.mark.parametrize("header", [(b"authorization", b"Bearer " + GIVEN), (b"x-api-key", GIVEN)])
async def test_an_engine_never_sees_a_key_of_ours(header: tuple[bytes, bytes]) -> None:
    engine = Engine()
    sent = [header, (b"accept", b"*/*")]
    await answered(gate_of(engine, key()), "/v1/models", method="GET", headers=sent)
    assert engine.headers == [(b"accept", b"*/*")]
    await answered(gate_of(engine), "/v1/models", method="GET", headers=sent)
    assert engine.headers == sent, "on a box without keys it is the engine's"


async def test_a_refused_key_is_told_which_scheme_to_use() -> None:
    call = await answered(gate_of(Engine(), key()), CHAT, headers=[])
    assert (call.status, call.headers[b"www-authenticate"]) == (401, b"Bearer")
    assert call.headers[b"x-should-retry"] == b"false"
    assert call.headers[b"x-request-id"]


@pytest.mark.parametrize(
    ("status", "again", "after"),
    [(200, None, None), (404, b"false", None), (408, b"true", None), (409, b"true", b"1"),
     (429, b"true", b"1"), (500, b"true", None), (503, b"true", b"1")],
)  # fmt: skip
async def test_an_engines_error_says_whether_to_ask_again(
    status: int, again: bytes | None, after: bytes | None
) -> None:
    engine = Engine()
    engine.status = status
    call = await answered(gate_of(engine), "/v1/models", method="GET")
    assert call.status == status
    assert call.headers.get(b"x-should-retry") == again
    assert call.headers.get(b"retry-after") == after
    assert len(call.headers[b"x-request-id"]) == 36


async def test_our_own_defect_is_answered_in_the_envelope_and_raised() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    gate = gate_of(cast("Any", broken))
    with pytest.raises(ZeroDivisionError):
        await gate({**scope("/v1/results", "GET"), "type": "http"}, cast("Any", None), send)
    assert sent[0]["status"] == 500
    assert b'"internal_error"' in sent[1]["body"]


def test_who_came_in_is_shut_out_once_its_key_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access()
    nobody, named = Caller(), Caller(tenant="t1", key_id="key_1")
    assert access.shut_out(nobody) is None
    access.renew([key(expires_at=2000)])
    assert type(access.shut_out(nobody)) is Unauthorized, "the box was open, and is closed now"
    monkeypatch.setattr(edge_store.api.access, "now_ms", lambda: 1999)
    assert access.shut_out(named) is None
    monkeypatch.setattr(edge_store.api.access, "now_ms", lambda: 2000)
    assert type(access.shut_out(named)) is KeyExpired
    access.renew([key(revoked_at=1)])
    assert type(access.shut_out(named)) is KeyRevoked
    access.renew([key(key_id="key_2")])  # as on a box restored to before it was made
    assert type(access.shut_out(named)) is Unauthorized


def test_the_admin_key_stays() -> None:
    access = Access([key()], "of-the-credential")
    caller = access.visit(scope(header=(b"x-api-key", b"of-the-credential"))).caller
    assert access.shut_out(caller) is None
