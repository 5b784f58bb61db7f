"""Whatever a sink does: each result reaches it at least once, in order, and others go on."""

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.s3server import free_port
from support.sinking import (
    MOSQUITTO,
    POSTGRES,
    Receiver,
    Subscriber,
    authority,
    broker,
    eventually,
    flowing,
    postgres,
    receiver,
)

from edge_store.clock import now_ms
from edge_store.config import SinkBegin, SinkKind, SinkSection
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_here
from edge_store.result import Output, Status
from edge_store.sinks import following
from edge_store.sinks.orders import RetrySink, SkipSink, retry_sink, skip_sink
from edge_store.sinks.postgres import CONVERTERS
from edge_store.sqlite import Connection, open_reader, open_writer

DEAD = "http://127.0.0.1:1/"
# JSON that PostgreSQL takes as it is; and texts, with the values that it is given of them.
ODD_JSON = (r'{"path": "C:\\u0000\\\\u0000"}', r'["\ud83d\ude00", "\\ud800"]', "[15, 0.5]")
DEEP = "[" * 100_000
ODD_TEXTS = (
    (r'["\u0000\\\u0000"]', ["\ufffd\\\ufffd"]),
    (r'["\ud800", "\udc00\ud83d\ude00"]', ["\ufffd", "\ufffd😀"]),
    ("[NaN]", "[NaN]"),
    (DEEP, DEEP),
    ("a\x00b", "a\ufffdb"),
)


def hooked(url: str, name: str = "hook", **fields: Any) -> SinkSection:
    fields = {"begin": SinkBegin.BEGINNING, "pause_s": 0.01, "timeout_s": 120.0, **fields}
    return SinkSection(name=name, kind=SinkKind.WEBHOOK, url=url, **fields)


async def taken(hook: Receiver, number: int) -> list[str]:
    await eventually(lambda: len(set(hook.ids)) >= number, f"{number} results were taken")
    return hook.ids


async def test_nothing_is_lost_by_a_receiver_that_fails_in_every_way(tmp_path: Path) -> None:
    with receiver() as hook:
        hook.plan = ["500", "cut", "half", "429", "302", "401", "503/1"]
        async with flowing(tmp_path / "r.db", hooked(hook.url, batch_rows=2)) as flow:
            ids = await flow.add(*[{}] * 5)
            assert await taken(hook, 5) == ids
            assert await flow.rows("SELECT count(*) FROM sink_letters") == [(0,)]
        at = [moment for _, _, moment in hook.requests]
        assert at[7] - at[6] >= 1.0, "Retry-After was honoured"
        assert len({headers["webhook-id"] for headers, _, _ in hook.requests[:8]}) == 1


async def test_what_is_refused_for_what_it_is_is_kept_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    with receiver() as hook:
        async with flowing(tmp_path / "r.db", hooked(hook.url)) as flow:
            hook.plan = ["422"]  # the batch; then row by row
            ids = await flow.add(*[{}] * 3)
            assert await taken(hook, 3) == ids
            hook.plan = ["422"]
            (bad,) = await flow.add({})
            letters = "edge_store_sink_letters"
            await eventually(lambda: flow.sample(letters, "hook") == 1, "it is kept")
            (last,) = await flow.add({})
            await eventually(lambda: hook.ids[-1:] == [last], "those behind it go on")
            found = await flow.rows("SELECT id, error FROM sink_letters")
            assert found == [(bad, "the web hook answered 422")]
            assert [alarm.name for alarm in flow.around.alarms.active] == ["sink_letters"]
            assert await flow.change(retry_sink, RetrySink(name="hook")) == 1
            await eventually(lambda: bad in hook.ids, "it is taken")
            await eventually(lambda: not flow.around.alarms.active, "the alarm is over")
            assert hook.ids == [*ids, last, bad], "and nothing came twice"
            assert await flow.rows("SELECT count(*) FROM sink_letters") == [(0,)]


async def test_a_sink_with_too_many_dead_letters_is_sent_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LETTERS_MAX", 2)
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    with receiver() as hook:
        hook.plan = ["400"] * 2
        async with flowing(tmp_path / "r.db", hooked(hook.url, batch_rows=1)) as flow:
            ids = await flow.add(*[{}] * 3)
            failures = "edge_store_sink_failures_total"
            await eventually(lambda: flow.sample(failures, "hook"), "it waits")
            assert hook.ids == []
            dropped = SkipSink(name="hook", letters=True)
            assert await flow.change(skip_sink, dropped) == 2
            assert await taken(hook, 1) == ids[2:]


async def test_hanging_and_absent_sinks_hold_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    with receiver() as hangs, receiver() as takes:
        hangs.plan = ["hang"] * 100
        sinks = (
            hooked(hangs.url, "hangs"),
            hooked(takes.url, "takes"),
            hooked(DEAD, "dead", behind_s=0.001, pause_s=0.2),
        )
        async with flowing(tmp_path / "r.db", *sinks) as flow:
            ids = await flow.add(*[{"completed_at": now_ms()}] * 20)
            assert await taken(takes, 20) == ids
            assert hangs.ids == []
            await eventually(lambda: flow.around.alarms.active, "the alarm is raised")
            (alarm,) = flow.around.alarms.active
            assert alarm.name == "sink_behind"
            assert "dead: 20 results" in alarm.message
            assert flow.sample("edge_store_sink_results_behind", "dead") == 20
            assert await flow.change(skip_sink, SkipSink(name="dead")) == 20
            await eventually(lambda: not flow.around.alarms.active, "nothing waits any more")
            hangs.released.set()  # so that the test ends soon


async def test_sink_that_works_off_what_has_waited_is_behind_until_it_has(
    tmp_path: Path,
) -> None:
    with receiver() as hook:
        sink = hooked(hook.url, batch_rows=1, behind_s=3600.0)
        async with flowing(tmp_path / "r.db", sink) as flow:
            hook.plan = ["200", "hang"]
            await flow.add(*[{"completed_at": now_ms() - 7_200_000}] * 5)
            await eventually(lambda: len(hook.requests) == 2, "the second one is on its way")
            assert flow.sample("edge_store_sink_results_behind", "hook") == 4
            assert (flow.sample("edge_store_sink_lag_seconds", "hook") or 0) >= 7200
            (alarm,) = flow.around.alarms.active
            assert alarm.message.startswith("hook: 4 results, for 72")
            hook.released.set()
            await flow.delivered("hook", 5)
            await eventually(lambda: not flow.around.alarms.active, "nothing waits any more")


async def test_what_is_imported_has_not_waited_since_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.05)
    old = {"completed_at": now_ms() - 7_200_000, "engine": "import:llm"}
    with receiver() as hook:
        async with flowing(tmp_path / "r.db", hooked(hook.url, batch_rows=1)) as flow:
            hook.plan = ["200", "hang"]
            await flow.add(*[old] * 3)
            await eventually(lambda: len(hook.requests) == 2, "the second one is on its way")
            assert flow.sample("edge_store_sink_results_behind", "hook") == 2
            assert (flow.sample("edge_store_sink_lag_seconds", "hook") or 0) < 60
            assert not flow.around.alarms.active
            hook.released.set()
            await flow.delivered("hook", 3)
        async with flowing(tmp_path / "r.db", hooked(DEAD, behind_s=0.3, pause_s=0.1)) as flow:
            await flow.add(old)
            await eventually(lambda: flow.around.alarms.active, "it waits since it is here")
            (alarm,) = flow.around.alarms.active
            waited = re.match(r"hook: 1 results, for (\d+) s", alarm.message)
            assert waited, alarm.message
            assert int(waited[1]) < 60


async def test_selection_and_bodies_decide_what_is_sent(tmp_path: Path) -> None:
    with receiver() as hook:
        sink = hooked(hook.url, status="completed", model="m", bodies=False)
        async with flowing(tmp_path / "r.db", sink) as flow:
            said = (Output(choice_index=0, output_text="4711"),)
            ids = await flow.add(
                {"response_model": "m", "outputs": said, "metadata": '{"who": "4711"}'},
                {"response_model": "other"},
                {"response_model": "m", "status": Status.FAILED, "error_message": "4711"},
                {"response_model": "m"},
            )
            assert await taken(hook, 2) == [ids[0], ids[3]]
        body = b"".join(body for _, body, _ in hook.requests)
        assert b"4711" not in body
        assert b"hello" not in body  # the prompt


async def test_what_is_forgotten_while_its_sink_is_away_is_not_sent(tmp_path: Path) -> None:
    with receiver() as hook:
        hook.plan = ["hang"]  # with all three in hand
        async with flowing(tmp_path / "r.db", hooked(hook.url)) as flow:
            ids = await flow.add(*[{}] * 3)
            await eventually(lambda: hook.requests, "it was tried")
            await flow.change(lambda c: delete_here(c, [2], Reason.FORGET))
            hook.released.set()
            await flow.delivered("hook", 2)
            assert hook.ids == [ids[0], ids[2]]
        with closing(open_reader(tmp_path / "r.db")) as reader:
            assert reader.execute("SELECT delivered, skipped FROM sinks").fetchall() == [(2, 1)]


async def test_place_is_kept_at_a_stop_and_deleted_results_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with receiver() as hook:
        async with flowing(path, hooked(hook.url)) as flow:
            ids = await flow.add({}, {})
            await flow.delivered("hook", 2)
            assert hook.ids == ids
        async with flowing(path, hooked(DEAD, pause_s=100.0)) as flow:
            await flow.add({}, {})
            failures = "edge_store_sink_failures_total"
            await eventually(lambda: flow.sample(failures, "hook"), "it fails")
            await flow.change(lambda c: delete_here(c, [3], Reason.FORGET))
        async with flowing(path, hooked(hook.url)) as flow:
            await flow.delivered("hook", 1)
            assert [each["seq"] for each in hook.taken] == [1, 2, 4]
        connection = open_writer(path)
        row = connection.execute("SELECT seq, delivered, skipped FROM sinks").fetchone()
        connection.close()
        assert row == (4, 3, 1)


async def test_a_restored_box_goes_on_under_its_new_timeline(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with receiver() as hook:
        async with flowing(path, hooked(hook.url)) as flow:
            await flow.add({})
            await flow.delivered("hook", 1)
        connection = open_writer(path)
        create_identity(connection, "box-test", reason="restored")
        connection.close()
        async with flowing(path, hooked(hook.url)) as flow:
            await flow.add({})
            await flow.delivered("hook", 1)
            timeline = flow.around.boot.timeline
        assert [each["timeline"] == timeline for each in hook.taken] == [False, True]
        connection = open_writer(path)
        assert connection.execute("SELECT timeline FROM sinks").fetchone() == (timeline,)
        connection.close()


async def test_a_new_sink_begins_with_the_next_result_if_it_is_to(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    async with flowing(path) as flow:
        await flow.add({}, {})
    with receiver() as hook:
        newest = hooked(hook.url, begin=SinkBegin.NEWEST)
        async with flowing(path, newest) as flow:
            ids = await flow.add({})
            assert await taken(hook, 1) == ids


@pytest.mark.parametrize("text", ODD_JSON)
def test_json_that_postgresql_takes_is_left_as_it_is(text: str) -> None:
    assert CONVERTERS["jsonb"](text) == text


@pytest.mark.parametrize(("text", "value"), ODD_TEXTS)
def test_json_has_nothing_that_postgresql_refuses(text: str, value: Any) -> None:
    assert json.loads(CONVERTERS["jsonb"](text)) == value


@pytest.mark.slow  # seconds
@pytest.mark.skipif(not POSTGRES, reason="there is no PostgreSQL (apt install postgresql)")
async def test_postgres_gets_every_result_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg  # noqa: PLC0415  (an extra)

    def said(text: str) -> dict[str, Any]:
        return {"outputs": (Output(choice_index=0, output_text=text),)}

    with postgres() as url:
        sink = SinkSection(
            name="pg", kind=SinkKind.POSTGRES, url=url, begin=SinkBegin.BEGINNING, pause_s=0.01,
            timeout_s=120.0,
        )  # fmt: skip
        monkeypatch.setenv("EDGE_STORE_SINK_PG", "wrong")
        async with flowing(tmp_path / "r.db", sink) as flow:
            await flow.add(said("one"))
            failures = "edge_store_sink_failures_total"
            await eventually(lambda: flow.sample(failures, "pg"), "it is refused")
        async with flowing(tmp_path / "r.db") as flow:
            found = await flow.rows("SELECT failure FROM sinks")
            assert found == [("PostgreSQL answered 28P01, InvalidPasswordError",)]
        monkeypatch.setenv("EDGE_STORE_SINK_PG", "geheim")
        async with flowing(tmp_path / "r.db", sink) as flow:
            await flow.add(said("two"))
            await flow.delivered("pg", 2)
            await flow.change(_send_all_again)  # as after a crash
            await flow.add({**said("three"), "status": Status.INCOMPLETE})
            await flow.delivered("pg", 5)
            expected = await flow.rows(
                "SELECT request_id, model_name, prompt, output_data, generated_tokens, "
                "latency_ms FROM sglang_inference_results ORDER BY 1"
            )
        connection: Any = await asyncpg.connect(url, password="geheim")
        rows = await connection.fetch("SELECT * FROM sglang_inference_results ORDER BY 1")
        assert [tuple(row)[:6] for row in rows] == expected
        await connection.execute(
            "ALTER TABLE sglang_inference_results ADD CHECK (output_data <> 'bad')"
        )
        async with flowing(tmp_path / "r.db", sink) as flow:
            _, bad, _ = await flow.add(said("four"), said("bad"), said("a\x00b"))
            await flow.delivered("pg", 2)
            letters = await flow.rows("SELECT id, error FROM sink_letters")
            assert letters == [(bad, "PostgreSQL answered 23514, CheckViolationError")]
        statement = "SELECT output_data FROM sglang_inference_results ORDER BY created_at, 1"
        texts = {row[0] for row in await connection.fetch(statement)}
        assert texts == {"one", "two", "three", "four", "a\ufffdb"}
        await connection.execute(
            "ALTER TABLE sglang_inference_results DROP output_data, ADD output_data jsonb"
        )
        values = {text: json.loads(text) for text in ODD_JSON[:3]} | dict(ODD_TEXTS)
        async with flowing(tmp_path / "r.db", sink) as flow:
            await flow.add(*map(said, values))
            await flow.delivered("pg", len(values))
            statement = (
                "SELECT output_data::text FROM sglang_inference_results "
                "WHERE output_data IS NOT NULL"
            )
            found = [json.loads(row[0]) for row in await connection.fetch(statement)]
            assert sorted(map(repr, found)) == sorted(map(repr, values.values()))
        await connection.execute(
            "ALTER TABLE sglang_inference_results DROP output_data, ADD output_data numeric"
        )
        async with flowing(tmp_path / "r.db", sink) as flow:
            word, _ = await flow.add(said("no number"), said("1e3"))
            await flow.delivered("pg", 1)
            letters = await flow.rows("SELECT id, error FROM sink_letters")
            assert letters[1:] == [(word, "a value does not fit its column's type")]
        await connection.close()


def _send_all_again(connection: Connection) -> None:
    connection.execute("UPDATE sinks SET seq = 0, orders = orders + 1")


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="there is no mosquitto (apt install mosquitto)")
async def test_broker_gets_every_result_though_it_goes_away(tmp_path: Path) -> None:
    def ids_of(subscriber: Subscriber) -> list[str]:
        return list(dict.fromkeys(body["id"] for _, body in subscriber.messages))

    with broker(tmp_path) as port:
        sink = SinkSection(
            name="mq", kind=SinkKind.MQTT, url=f"mqtt://127.0.0.1:{port}",
            begin=SinkBegin.BEGINNING, pause_s=0.05, topic="plant/{device}/{model}",
            timeout_s=120.0,
        )  # fmt: skip
        with Subscriber(port) as subscriber:
            async with flowing(tmp_path / "r.db", sink) as flow:
                ids = await flow.add(*[{"response_model": "a/#b"}] * 3)
                await flow.delivered("mq", 3)
                await eventually(lambda: len(ids_of(subscriber)) == 3, "they are published")
            async with flowing(tmp_path / "r.db", sink) as flow:
                none, _ = await flow.add({"response_model": "m" * 70_000}, {})
                await flow.delivered("mq", 1)
                letters = await flow.rows("SELECT id FROM sink_letters")
                assert letters == [(none,)]
                await flow.change(skip_sink, SkipSink(name="mq", letters=True))
                await eventually(lambda: len(ids_of(subscriber)) == 4, "the one behind it is")
                ids = ids[:3] + ids_of(subscriber)[3:]
        assert ids_of(subscriber) == ids
        assert subscriber.messages[0][0] == "plant/box-test/a__b"
    async with flowing(tmp_path / "r.db", sink) as flow:  # the broker is away
        ids = await flow.add({}, {})
        failures = "edge_store_sink_failures_total"
        await eventually(lambda: flow.sample(failures, "mq"), "it fails")
        with broker(tmp_path, port):
            await flow.delivered("mq", 2)


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="there is no mosquitto (apt install mosquitto)")
# paho leaves the socket of a handshake that failed to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_broker_behind_tls_is_trusted_by_its_ca_and_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, secure = authority(tmp_path / "ca"), free_port()

    def sink(host: str) -> SinkSection:
        return SinkSection(
            name="mq", kind=SinkKind.MQTT, url=f"mqtts://{host}:{secure}",
            begin=SinkBegin.BEGINNING, pause_s=0.05, batch_rows=1000, timeout_s=120.0,
        )  # fmt: skip

    async def refused(host: str, **changes: Any) -> None:
        async with flowing(tmp_path / "r.db", sink(host)) as flow:
            await flow.add(changes)
            failures = "edge_store_sink_failures_total"
            await eventually(lambda: flow.sample(failures, "mq"), "it is not trusted")
        async with flowing(tmp_path / "r.db") as flow:
            ((failure, delivered),) = await flow.rows("SELECT failure, delivered FROM sinks")
            assert delivered == 0
            assert "certificate is not trusted" in failure
            assert host not in failure
            assert await flow.rows("SELECT count(*) FROM sink_letters") == [(0,)]

    with broker(tmp_path, tls=(secure, ours)) as port, Subscriber(port) as subscriber:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        await refused("localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.root))
        await refused("127.0.0.1")  # not the name in its certificate
        monkeypatch.delenv("SSL_CERT_FILE")
        pinned = msgspec.structs.replace(sink("localhost"), ca_file=str(ours.root))
        async with flowing(tmp_path / "r.db", pinned) as flow:
            large = Output(choice_index=0, output_text="long " * 200_000)  # many records of TLS
            await flow.add({"outputs": (large,)}, *[{}] * 600)
            await flow.delivered("mq", 603)
            await eventually(lambda: len(subscriber.messages) == 603, "they are published")
        seqs = [body["seq"] for _, body in subscriber.messages]
        assert seqs == list(range(1, 604))
        assert len(subscriber.messages[2][1]["outputs"][0]["output_text"]) == 1_000_000
        assert "pending publish calls" not in caplog.text


async def test_web_hook_with_a_certificate_of_a_private_ca_is_trusted_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = authority(tmp_path / "ca")
    with receiver(ours) as hook:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        async with flowing(tmp_path / "r.db", hooked(hook.url)) as flow:
            await flow.add({})
            failures = "edge_store_sink_failures_total"
            await eventually(lambda: flow.sample(failures, "hook"), "it is not trusted")
        async with flowing(tmp_path / "r.db") as flow:
            ((failure,),) = await flow.rows("SELECT failure FROM sinks")
            assert "certificate is not trusted" in failure
        monkeypatch.setenv("SSL_CERT_FILE", str(ours.root))
        async with flowing(tmp_path / "r.db", hooked(hook.url)) as flow:
            await flow.add({})
            await flow.delivered("hook", 2)


async def test_ca_file_of_a_sink_is_trusted_alone_and_one_put_right_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = authority(tmp_path / "ca"), authority(tmp_path / "others")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.root))  # the system's, which count no more
    named = tmp_path / "named.pem"
    failures = "edge_store_sink_failures_total"
    with receiver(ours) as hook:
        sink = hooked(hook.url, ca_file=str(named))
        for content, said in (
            (None, "No such file"),
            (b"\xff no PEM", "no PEM file of certificates"),
            (others.root.read_bytes(), "certificate is not trusted"),
        ):
            if content is not None:
                named.write_bytes(content)
            async with flowing(tmp_path / "r.db", sink) as flow:
                await flow.add({})
                await eventually(lambda: flow.sample(failures, "hook"), "it is not trusted")
            async with flowing(tmp_path / "r.db") as flow:
                ((failure,),) = await flow.rows("SELECT failure FROM sinks")
                assert said in failure
        async with flowing(tmp_path / "r.db", sink) as flow:
            await eventually(lambda: flow.sample(failures, "hook"), "nor is it yet")
            named.write_bytes(ours.root.read_bytes())
            await flow.delivered("hook", 3)


@pytest.mark.parametrize(
    ("kind", "url", "said"),
    [
        (SinkKind.POSTGRES, "postgresql://db/x", "sslrootcert"),
        (SinkKind.WEBHOOK, "http://hook/x", "https://"),
        (SinkKind.MQTT, "mqtt://broker", "mqtts://"),
    ],
)
def test_ca_file_where_nothing_would_look_at_it_is_refused(
    kind: SinkKind, url: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        SinkSection(name="x", kind=kind, url=url, ca_file="/ca.pem")
