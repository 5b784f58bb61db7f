"""Files and batches by OpenAI's SDK, unmodified, against a real daemon."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from support.batches import ENDED, line, pause, text_of
from support.daemon import Box, DaemonProcess, until


def client_of(daemon: DaemonProcess, key: str = "k") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0)


def submitted(client: openai.OpenAI, text: bytes, **fields: Any) -> Any:
    file = client.files.create(file=("input.jsonl", text), purpose="batch")
    return client.batches.create(
        **{
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **fields,
        }
    )


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    def found() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in ENDED else None

    return until(found, "the batch has ended")


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def content(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(one) for one in client.files.content(file_id).text.splitlines()]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("batches") / "box", QUEUE__RETRY_PAUSE_S="0.05")
    with box.serve() as daemon:
        yield daemon


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[openai.OpenAI]:
    with client_of(daemon) as client:
        yield client


def test_a_batch_goes_from_upload_to_output(client: openai.OpenAI, daemon: DaemonProcess) -> None:
    names = [f"line-{n}" for n in range(40)]
    batch = submitted(client, text_of([line(n) for n in names]), metadata={"job": "night"})
    assert (batch.status, batch.object) == ("validating", "batch")
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"completed": 40, "failed": 0, "total": 40}
    assert batch.metadata == {"job": "night"}
    assert batch.error_file_id is None
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 86400
    output = content(client, batch.output_file_id)
    assert [one["custom_id"] for one in output] == names
    for one in output:
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        assert one["response"]["body"]["choices"][0]["message"]["content"]
    stored = daemon.box.rows(
        "SELECT custom_id, id, input_tokens, output_tokens FROM results WHERE batch_id = ? AND "
        "status = 'completed'",
        batch.id,
    )
    assert sorted(row[0] for row in stored) == sorted(names)
    assert {one["response"]["request_id"] for one in output} == {row[1] for row in stored}
    assert batch.usage.input_tokens == sum(row[2] for row in stored)
    assert batch.usage.output_tokens == sum(row[3] for row in stored)
    listed = client.batches.list(limit=1)
    assert listed.data[0].id == batch.id


def test_a_line_that_is_refused_is_in_the_error_file(client: openai.OpenAI) -> None:
    bad = line("bad", body={"model": "demo", "messages": "none"})
    batch = ended(client, submitted(client, text_of([line("good"), bad])).id)
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"completed": 1, "failed": 1, "total": 2}
    (error,) = content(client, batch.error_file_id)
    assert error["custom_id"] == "bad"
    assert error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["message"]
    assert [one["custom_id"] for one in content(client, batch.output_file_id)] == ["good"]


@pytest.mark.parametrize(
    ("text", "code", "at"),
    [
        (b"nonsense\n", "invalid_json_line", 1),
        (text_of([line("a"), line("a")]), "duplicate_custom_id", 2),
        (text_of([line("a", url="/v1/embeddings")]), "mismatched_url", 1),
        (text_of([line("a", method="GET")]), "invalid_method", 1),
        (text_of([line("")]), "invalid_custom_id", 1),
        (text_of([line("a", body=[])]), "invalid_body", 1),
        (text_of([line("a", body={"stream": True})]), "invalid_body", 1),
        (b"\n\n", "empty_file", None),
        (b'{"custom_id": "' + 20 * 1024 * 1024 * b"x" + b'"}\n', "line_too_large", 1),
    ],
)
def test_an_input_that_is_wrong_fails_the_batch(
    client: openai.OpenAI, text: bytes, code: str, at: int | None
) -> None:
    batch = ended(client, submitted(client, text).id)
    assert batch.status == "failed"
    assert [(e.code, e.line) for e in batch.errors.data] == [(code, at)]
    assert batch.failed_at


def test_too_many_lines_fail_the_batch(client: openai.OpenAI) -> None:
    text = text_of([line(f"line-{n}") for n in range(50_001)])
    batch = ended(client, submitted(client, text).id)
    assert [e.code for e in batch.errors.data] == ["too_many_lines"]


def test_a_file_is_listed_sent_back_and_deleted(
    client: openai.OpenAI, daemon: DaemonProcess
) -> None:
    text = text_of([line("only")])
    file = client.files.create(file=('möwe ".jsonl', text), purpose="batch")
    assert (file.bytes, file.purpose, file.status) == (len(text), "batch", "processed")
    assert client.files.content(file.id).read() == text
    assert file.id in [one.id for one in client.files.list(purpose="batch")]
    assert client.files.list(purpose="vision").data == []
    assert client.files.retrieve(file.id) == file
    folder = daemon.box.directory / "files"
    sha256 = daemon.box.scalar("SELECT sha256 FROM files WHERE file_id = ?", file.id)
    assert (folder / sha256).stat().st_mode & 0o777 == 0o640
    assert client.files.delete(file.id).deleted
    assert not (folder / sha256).exists()
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_pages_of_files_follow_each_other(daemon: DaemonProcess) -> None:
    with client_of(daemon, "pages") as client:
        made = [
            client.files.create(file=(f"{n}.jsonl", b"x"), purpose="batch").id for n in range(5)
        ]
        newest = [one.id for one in client.files.list(limit=2)]
        assert newest[:5] == made[::-1]
        assert [one.id for one in client.files.list(limit=2, order="asc")] == newest[::-1]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
def test_a_page_after_what_is_not_there_is_refused(daemon: DaemonProcess, path: str) -> None:
    answer = daemon.get(f"{path}?after=absent")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_uploads_that_are_wrong_are_refused(client: openai.OpenAI, daemon: DaemonProcess) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.files.create(file=("big.jsonl", 201 * 1024 * 1024 * b"x"), purpose="batch")
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a", b"x"), purpose="other")  # type: ignore[arg-type]  # wrong
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for body in (b"", b"junk", b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx'):
        assert daemon.post("/v1/files", content=body, headers=kind).status_code == 400
    assert daemon.post("/v1/files", json={}).status_code == 400
    left = [path.name for path in (daemon.box.directory / "files").iterdir()]
    assert not [name for name in left if name.startswith(".")]


def test_a_batch_that_is_cancelled_ends_with_what_it_has(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", QUEUE__SLOTS_MAX="2", ENGINE__DEMO__TOKEN_DELAY_MS="20")
    with box.serve() as daemon, client_of(daemon) as client:  # all of them would take a minute
        batch = submitted(client, text_of([line(f"line-{n}") for n in range(200)]))
        until(lambda: completed(client, batch.id), "a line is completed")
        client.batches.cancel(batch.id)
        batch = ended(client, batch.id)
        assert batch.status == "cancelled"
        assert batch.cancelling_at
        counts = batch.request_counts
        assert 0 < counts.completed < 200
        assert counts.failed == 200 - counts.completed
        assert len(content(client, batch.output_file_id)) == counts.completed
        errors = content(client, batch.error_file_id)
        assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
        assert client.batches.cancel(batch.id).status == "cancelled"
        batch = ended(client, submitted(client, text_of([line("after"), line("that")])).id)
        assert batch.status == "completed", "what was cut gave its places back"


def test_a_batch_whose_window_is_over_expires(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", QUEUE__SLOTS_MAX="2", ENGINE__DEMO__TOKEN_DELAY_MS="20")
    with box.serve() as daemon, client_of(daemon) as client:
        text = text_of([line(f"line-{n}") for n in range(200)])  # checked well within the window
        batch = ended(client, submitted(client, text, completion_window="8s").id)
        assert batch.status == "expired"
        assert batch.request_counts.total == 200
        errors = content(client, batch.error_file_id)
        assert {one["error"]["code"] for one in errors} == {"batch_expired"}
        with pytest.raises(openai.BadRequestError):
            client.batches.cancel(batch.id)


def test_a_request_is_answered_later_under_the_id_that_it_was_given(
    daemon: DaemonProcess,
) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "later"}]}
    taken = daemon.post(
        "/v1/chat/completions", json=body, headers={"prefer": "respond-async, wait=10"}
    )
    assert (taken.status_code, taken.headers["preference-applied"]) == (202, "respond-async")
    where = taken.headers["location"]
    assert where == f"/v1/results/{taken.headers['x-edge-store-id']}"

    def found() -> Any:
        answer = daemon.get(where)
        assert answer.status_code in (200, 202)
        assert answer.status_code == 200 or answer.json()["status"] in ("queued", "running")
        return answer.json() if answer.status_code == 200 else None

    result = until(found, "the result is there")
    assert result["id"] == taken.json()["id"] == taken.headers["x-edge-store-id"]
    assert result["status"] == "completed"
    assert json.loads(result["request_body"]) == body
    until(
        lambda: daemon.box.scalar("SELECT count(*) FROM queued_requests") == 0,
        "it is off the queue",
    )


def test_what_is_answered_later_is_checked_at_once(daemon: DaemonProcess) -> None:
    later = {"prefer": "respond-async"}
    refused = daemon.post("/v1/chat/completions", content=b"{", headers=later)
    assert refused.status_code == 400
    unkept = daemon.post(
        "/v1/chat/completions",
        json={"model": "demo", "store": False, "messages": [{"role": "user", "content": "x"}]},
        headers=later,
    )
    assert unkept.status_code == 200
    streamed = daemon.post(
        "/v1/chat/completions",
        json={"model": "demo", "stream": True, "messages": [{"role": "user", "content": "x"}]},
        headers=later,
    )
    where = streamed.headers["location"]
    until(lambda: daemon.get(where).status_code == 200, "a stream is stored too")
    until(
        lambda: daemon.box.scalar("SELECT count(*) FROM queued_requests") == 0,
        "it is off the queue",
    )
    assert daemon.box.scalar("SELECT count(*) FROM results WHERE batch_id = ?", where[12:]) == 1


def test_batches_have_no_order_but_their_own(client: openai.OpenAI) -> None:
    made = [submitted(client, text_of([line("a")])).id for _ in range(2)]
    found = client.batches.list(limit=2)
    assert [one.id for one in found.data] == made[::-1]
    with pytest.raises(openai.BadRequestError, match="has no parameter 'order'"):
        client.batches.list(extra_query={"order": "asc"})  # nor has OpenAI's
    pages = client.batches.list(limit=1)
    assert [one.id for _, one in zip(range(2), pages, strict=False)] == made[::-1]
    for batch_id in made:
        ended(client, batch_id)


def test_a_key_has_one_request_that_is_answered_later(daemon: DaemonProcess) -> None:
    chat, config = "/v1/chat/completions", ("--config", str(daemon.box.directory))
    body = {"model": "demo", "messages": [{"role": "user", "content": "once"}]}
    other = {**body, "seed": 1}
    plain = {"idempotency-key": "later"}
    later = {**plain, "prefer": "respond-async"}

    def asked(headers: dict[str, str]) -> Any:
        return daemon.post(chat, json=body, headers=headers)

    pause(daemon)
    try:
        with ThreadPoolExecutor(3) as pool:
            first = [*pool.map(asked, [later, later, later]), asked(plain)]
    finally:
        assert daemon.box.run("queue", "resume", *config).returncode == 0
    assert [answer.status_code for answer in first] == [202] * 4
    assert len({(answer.content, answer.headers["location"]) for answer in first}) == 1
    replayed = [answer.headers.get("idempotency-replayed") for answer in first]
    assert sorted(replayed, key=str) == [None, "true", "true", "true"]
    refused = daemon.post(chat, json=other, headers=later)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_conflict")
    where = "/v1/results/" + first[0].headers["x-edge-store-id"]
    until(lambda: daemon.get(where).status_code == 200, "the result is there")
    for headers in (later, plain):
        done = asked(headers)
        assert (done.status_code, done.headers["idempotency-replayed"]) == (200, "true")
        assert "/v1/results/" + done.headers["x-edge-store-id"] == where
    found = "SELECT count(*) FROM results WHERE idempotency_key_hash IS NOT NULL"
    assert daemon.box.scalar(found) == 1
    refused = daemon.post(chat, json=other, headers=later)
    assert refused.status_code == 422
