"""What else the daemon answers: SGLang's /generate, results, metrics, health, and nothing more."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.daemon import DEADLINE_S, Box, DaemonProcess


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    box = Box.init(tmp_path_factory.mktemp("http") / "box")
    with box.serve() as daemon:
        yield daemon


def test_generate_is_recorded(daemon: DaemonProcess) -> None:
    answer = daemon.post(
        "/generate", json={"text": "hello", "sampling_params": {"max_new_tokens": 8}}
    )
    assert answer.status_code == 200
    said = answer.json()
    assert said["meta_info"]["id"] == answer.headers["x-edge-store-id"]
    stored = daemon.get(f"/v1/results/{said['meta_info']['id']}").json()
    assert (stored["operation"], stored["input_text"]) == ("generate", "hello")
    assert stored["outputs"][0]["output_text"] == said["text"] != ""
    assert stored["finish_reason"] == said["meta_info"]["finish_reason"]["type"] == "length"
    assert stored["output_tokens"] == said["meta_info"]["completion_tokens"] == 8


def test_streamed_generate_is_committed_before_its_last_text_arrives(
    daemon: DaemonProcess,
) -> None:
    body = {"text": "hello", "stream": True}
    last: dict[str, Any] = {}
    with httpx.stream("POST", f"{daemon.url}/generate", json=body, timeout=DEADLINE_S) as answer:
        assert answer.headers["x-edge-store-durability"] == "on-end"
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
            if last and last["meta_info"]["finish_reason"]:
                break
        assert daemon.box.texts()[last["meta_info"]["id"]] == last["text"] != ""


def test_list_of_inputs_is_one_result_with_an_output_for_each(daemon: DaemonProcess) -> None:
    answer = daemon.post("/generate", json={"text": ["one", "two", "three"]})
    stored = daemon.get(f"/v1/results/{answer.headers['x-edge-store-id']}").json()
    assert [o["output_text"] for o in stored["outputs"]] == [one["text"] for one in answer.json()]
    assert len(stored["outputs"]) == 3


def test_stream_carries_its_receipt_before_its_end(daemon: DaemonProcess) -> None:
    answer = daemon.chat("receipt", stream=True)
    lines = [line for line in answer.text.splitlines() if line]
    (place,) = [n for n, line in enumerate(lines) if line.startswith(": committed ")]
    result_id = answer.headers["x-edge-store-id"]
    seq = daemon.box.scalar("SELECT seq FROM results WHERE id = ?", result_id)
    assert lines[place] == f": committed id={result_id} seq={seq}"
    assert '"finish_reason":null' in lines[place - 1]
    assert '"finish_reason":"stop"' in lines[place + 1]
    assert lines[-1] == "data: [DONE]"


def test_newest_results_are_listed_in_pages(daemon: DaemonProcess) -> None:
    made = [daemon.chat(f"page {n}").headers["x-edge-store-id"] for n in range(5)]
    first = daemon.get("/v1/results?limit=3").json()
    assert [one["id"] for one in first["data"]] == made[:1:-1]
    assert first["has_more"] is True
    before = first["data"][-1]["seq"]
    second = daemon.get(f"/v1/results?limit=2&before_seq={before}").json()
    assert [one["id"] for one in second["data"]] == made[1::-1]
    newest = first["data"][0]["seq"]
    assert daemon.get(f"/v1/results?after_seq={newest}").json()["data"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/results/nonsense", 404, "not_found"),
        ("/v1/results/nonsense/receipt", 400, "invalid_request"),
        ("/v1/results?limit=0", 400, "invalid_request"),
        ("/v1/results?limit=x", 400, "invalid_request"),
        ("/v1/results?after_seq=99999999999999999999", 400, "invalid_request"),
        ("/v1/resultsx", 404, "not_found"),
    ],
)
def test_wrong_questions_are_answered_in_openais_envelope(
    daemon: DaemonProcess, path: str, status: int, code: str
) -> None:
    answer = daemon.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/flush_cache"),
        ("GET", "/flush_cache"),
        ("POST", "/update_weights_from_disk"),
        ("POST", "/generate/"),
        ("POST", "//generate"),
        ("POST", "/v1/chat/completions/../../flush_cache"),
        ("POST", "/v1/chat/completions%2f..%2f..%2fflush_cache"),
        ("GET", "/"),
        ("GET", "/v1/results/"),
    ],
)
def test_no_other_route_reaches_the_engine(daemon: DaemonProcess, method: str, path: str) -> None:
    before = daemon.box.scalar("SELECT count(*) FROM results")
    answer = httpx.request(method, daemon.url + path, json={}, timeout=DEADLINE_S)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert daemon.box.scalar("SELECT count(*) FROM results") == before


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/models", "GET, HEAD"),
        ("GET", "/v1/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "GET, HEAD, POST"),
        ("DELETE", "/generate", "POST"),
        ("PUT", "/v1/batches", "GET, HEAD, POST"),
        ("PUT", "/v1/files/x", "DELETE, GET, HEAD"),
    ],
)
def test_wrong_method_is_told_the_right_one(
    daemon: DaemonProcess, method: str, path: str, allowed: str
) -> None:
    answer = httpx.request(method, daemon.url + path, timeout=DEADLINE_S)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/livez", "/v1/models", "/v1/results"])
def test_head_is_allowed_where_get_is(daemon: DaemonProcess, path: str) -> None:
    answer = httpx.head(daemon.url + path, timeout=DEADLINE_S)
    assert (answer.status_code, answer.content) == (200, b"")


def test_query_command_answers_while_the_daemon_writes(daemon: DaemonProcess) -> None:
    made = daemon.chat("find me").headers["x-edge-store-id"]
    (found,) = daemon.box.query(
        "SELECT input_text, status FROM generations WHERE id = :id", "-p", "id", made
    )
    assert found == {"input_text": "find me", "status": "completed"}


def test_health_tells_what_the_daemon_is_made_of(daemon: DaemonProcess) -> None:
    assert daemon.get("/livez").text == "ok\n"
    ready = daemon.get("/readyz").json()
    assert ready["is_ready"] is True
    assert ready["engine"]["kind"] == "demo"
    assert ready["admission"]["is_open"] is True
    assert ready["device_id"] == daemon.box.scalar("SELECT device_id FROM device")


def test_metrics_count_what_happened(tmp_path_factory: pytest.TempPathFactory) -> None:
    box = Box.init(tmp_path_factory.mktemp("metrics") / "box")
    with box.serve() as daemon:
        for n in range(3):
            assert daemon.chat(f"count {n}").status_code == 200
        assert daemon.chat("[demo:error]").status_code == 500
        assert daemon.post("/generate", content=b"{").status_code == 400
        seen = daemon.metrics()
    assert seen["edge_store_admitted_total"] == 4
    assert seen['edge_store_committed_total{status="completed"}'] == 3
    assert seen['edge_store_committed_total{status="failed"}'] == 1
    assert seen['edge_store_refused_total{code="invalid_request"}'] == 1
    assert seen["edge_store_commits_total"] >= 4
    assert seen["edge_store_commit_seconds_count"] == seen["edge_store_commits_total"]
    assert seen["edge_store_queue_depth"] == seen["edge_store_in_flight"] == 0
    assert seen["edge_store_queue_age_seconds"] == 0
    assert seen["edge_store_wal_bytes"] > 0
    assert seen["edge_store_disk_free_bytes"] > 0
