"""No sequence of calls of one tenant brings back a byte of another's, nor tells that it is there.

A real daemon, two tenants. Everything that a tenant can send has its own word in it, and the demo
engine is made to answer with that word. Each may ask by any id that was ever given to anybody: an
answer must not have the other's word or ids in it, and another's id must be answered as one that
never was. Every route of `/openapi.json` is in ``CALLS``: a new one is a line there.
"""

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.daemon import DEADLINE_S, Box, DaemonProcess, until

ID_CHARS_MIN = 20  # shorter values under "id" are names, as of a model
ID = re.compile(r"[\w-]{20,}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def chat(word: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": f"model-{word}",
        "messages": [{"role": "user", "content": f"tell me of {word}"}],
        "user": f"user-{word}",
        "metadata": {"of": word},
        "regex": f"answer-{word}-[0-9]{{8}}",
        **fields,
    }


def generate(word: str) -> dict[str, Any]:
    sampling = {"regex": f"answer-{word}-[0-9]{{8}}", "max_new_tokens": 64}
    return {"text": f"tell me of {word}", "sampling_params": sampling, "rid": f"rid-{word}"}


def batch(_word: str) -> dict[str, Any]:
    window = "24h"
    endpoint = "/v1/chat/completions"
    return {"input_file_id": "{id}", "endpoint": endpoint, "completion_window": window}


def upload(word: str) -> dict[str, Any]:
    """A form: the input of a batch of one line."""
    line = {"custom_id": f"line-{word}", "method": "POST", "url": "/v1/chat/completions"}
    text = json.dumps({**line, "body": chat(word)}).encode()
    return {"files": {"file": (f"{word}.jsonl", text)}, "data": {"purpose": "batch"}}


def respond(word: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": f"model-{word}",
        "input": f"tell me of {word}",
        "user": f"user-{word}",
        "metadata": {"of": word},
        **fields,
    }


def items(word: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"tell me of {word}"}]


def message(word: str) -> dict[str, Any]:
    """Of Anthropic, and nearly of Ollama."""
    asked = {"model": f"model-{word}", "messages": items(word), "max_tokens": 9}
    return {**asked, "metadata": {"user_id": f"user-{word}"}}


def prompt(word: str) -> dict[str, Any]:
    return {"model": f"model-{word}", "prompt": f"tell me of {word}", "user": f"user-{word}"}


def embed(word: str) -> dict[str, Any]:
    return {"model": f"model-{word}", "input": f"tell me of {word}"}


class Template(NamedTuple):
    """One call. ``{id}`` in the path or the body stands for an id of anybody's, ``body`` and
    ``form`` are made of a word.
    """

    method: str
    path: str
    body: Any = None
    form: Any = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def has_id(self) -> bool:
        return "{id}" in self.path or (self.body is not None and "{id}" in self.body("").values())


CALLS = [
    Template("POST", "/v1/chat/completions", chat),
    Template("POST", "/v1/chat/completions", lambda word: chat(word, stream=True)),
    Template("POST", "/generate", generate),
    Template("POST", "/v1/completions", prompt),
    Template("POST", "/v1/embeddings", embed),
    Template("POST", "/v1/messages", message),
    Template("POST", "/api/chat", message),
    Template("POST", "/api/generate", prompt, headers=(("prefer", "respond-async"),)),
    Template("POST", "/v1/chat/completions", chat, headers=(("x-edge-store-record", "meta"),)),
    Template("GET", "/v1/models"),
    Template("GET", "/v1/models/demo"),
    Template("GET", "/model_info"),
    Template("GET", "/get_model_info"),
    Template("GET", "/server_info"),
    Template("GET", "/get_server_info"),
    Template("POST", "/flush_cache"),
    Template("GET", "/livez"),
    Template("GET", "/readyz"),
    Template("GET", "/metrics"),
    Template("GET", "/openapi.json"),
    Template("POST", "/v1/query", lambda _word: {"sql": "SELECT * FROM generations"}),
    Template("GET", "/v1/results"),
    Template("GET", "/v1/results?after_seq=0&limit=1000"),
    Template("GET", "/v1/results?before_seq=9&limit=3"),
    Template("GET", "/v1/results/{id}"),
    Template("GET", "/v1/results/{id}/receipt"),
    Template("GET", "/v1/results?status=completed&since=2020-01-01T00:00:00Z&limit=1000"),
    Template("GET", "/v1/results?tenant=tenant-zebra&limit=1000"),
    Template("GET", "/v1/results/{id}/raw"),
    Template("GET", "/v1/results/{id}/raw?part=request"),
    Template("GET", "/v1/changes?after_seq=0"),
    Template("GET", "/v1/changes?after_seq=0&limit=1000&model=model-zebra"),
    Template("GET", "/v1/results?user=user-zebra&limit=1000"),
    Template("GET", "/v1/results?model=model-quince&metadata[of]=quince&limit=1000"),
    Template("GET", "/v1/results?conversation_id={id}"),
    Template("GET", "/v1/results?batch_id={id}"),
    Template("GET", "/v1/chat/completions"),
    Template("GET", "/v1/chat/completions?order=desc&limit=100&after={id}"),
    Template("GET", "/v1/chat/completions/{id}"),
    Template("GET", "/v1/chat/completions/{id}/messages"),
    Template("POST", "/v1/chat/completions/{id}", lambda word: {"metadata": {"of": word}}),
    Template("DELETE", "/v1/chat/completions/{id}"),
    Template("POST", "/v1/chat/completions", chat, headers=(("prefer", "respond-async"),)),
    Template("POST", "/v1/files", form=upload),
    Template("GET", "/v1/files"),
    Template("GET", "/v1/files?order=asc&limit=2&after={id}"),
    Template("GET", "/v1/files/{id}"),
    Template("GET", "/v1/files/{id}/content"),
    Template("DELETE", "/v1/files/{id}"),
    Template("POST", "/v1/batches", batch),
    Template("GET", "/v1/batches"),
    Template("GET", "/v1/batches?limit=2&after={id}"),
    Template("GET", "/v1/batches/{id}"),
    Template("POST", "/v1/batches/{id}/cancel"),
    Template("GET", "/nothing/{id}"),
    Template("POST", "/v1/responses", respond),
    Template("POST", "/v1/responses", lambda word: respond(word, stream=True)),
    Template("POST", "/v1/responses", lambda word: respond(word, background=True)),
    Template("POST", "/v1/responses", lambda word: respond(word, previous_response_id="{id}")),
    Template("POST", "/v1/responses", lambda word: respond(word, conversation="{id}")),
    Template("GET", "/v1/responses/{id}"),
    Template("GET", "/v1/responses/{id}?stream=true"),
    Template("GET", "/v1/responses/{id}/input_items"),
    Template("POST", "/v1/responses/{id}/cancel"),
    Template("DELETE", "/v1/responses/{id}"),
    Template("POST", "/v1/conversations", lambda word: {"items": items(word)}),
    Template("GET", "/v1/conversations/{id}"),
    Template("POST", "/v1/conversations/{id}", lambda word: {"metadata": {"of": word}}),
    Template("GET", "/v1/conversations/{id}/items"),
    Template("POST", "/v1/conversations/{id}/items", lambda word: {"items": items(word)}),
    Template("GET", "/v1/conversations/{id}/items/{id}"),
    Template("DELETE", "/v1/conversations/{id}/items/{id}"),
    Template("DELETE", "/v1/conversations/{id}"),
]
WITH_ID = [call for call in CALLS if call.has_id]


class Tenant:
    """A key, a word, and what was given to it."""

    def __init__(self, box: Box, word: str, *scopes: str) -> None:
        self.word = word
        options = [part for scope in scopes for part in ("--scope", scope)]
        done = box.run(
            "keys", "create", f"key-of-{word}", "--tenant", f"tenant-{word}", *options,
            "--config", str(box.directory),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.headers = {"authorization": f"Bearer {done.stdout.strip()}"}
        self.ids: set[str] = set()


class Town:
    """The daemon and who asks it."""

    def __init__(self, daemon: DaemonProcess, http: httpx.Client) -> None:
        self.daemon = daemon
        self.http = http
        self.tenants = (Tenant(daemon.box, "zebra"), Tenant(daemon.box, "quince"))
        self.auditor = Tenant(daemon.box, "auditor", "read_all")
        made = self.ask(self.tenants[0], CALLS[0], "").headers["x-edge-store-id"]
        self.never = f"{made[:24]}{secrets.token_hex(6)}"  # of the daemon's clock, as theirs are

    def ask(self, tenant: Tenant, call: Template, asked_id: str, **headers: str) -> httpx.Response:
        body = None
        if call.body is not None:
            made = call.body(tenant.word)
            body = {k: asked_id if v == "{id}" else v for k, v in made.items()}
        return self.http.request(
            call.method,
            self.daemon.url + call.path.replace("{id}", asked_id),
            headers={**tenant.headers, **dict(call.headers), **headers},
            json=body,
            **(call.form(tenant.word) if call.form else {}),
        )

    def known(self) -> list[str]:
        """Every id that was given to anybody, and one that was not."""
        return [self.never, *sorted(set().union(*(tenant.ids for tenant in self.tenants)))]


def said(answer: httpx.Response) -> str:
    """All of it: headers, then the body."""
    lines = [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\n".join([*lines, answer.text])


def ids_in(answer: httpx.Response) -> set[str]:
    """The ids of things that were made for who asked."""
    found = set(re.findall(r'"(?:output_file_)?id": ?"([\w-]+)"', answer.text))
    if "x-edge-store-id" in answer.headers:
        found.add(answer.headers["x-edge-store-id"])
    return {each for each in found if len(each) >= ID_CHARS_MIN}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    box = Box.init(tmp_path_factory.mktemp("tenancy") / "box", "--engine", "demo")
    with box.serve() as daemon, httpx.Client(timeout=DEADLINE_S) as http:
        yield Town(daemon, http)


steps = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from(CALLS), st.integers(0, 1 << 16)),
    min_size=2,
    max_size=20,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_nothing_of_another_tenant_comes_back(
    town: Town, steps: list[tuple[int, Template, int]]
) -> None:
    for who, call, choice in steps:
        mine, other = town.tenants[who], town.tenants[1 - who]
        known = town.known()
        asked_id = known[choice % len(known)]
        answer = town.ask(mine, call, asked_id)
        text = said(answer)
        assert answer.status_code < 500, text
        assert other.word not in text
        told = set(ID.findall(text)) & other.ids
        assert {each for each in told if asked_id not in each} == set()  # `resp_` may be added
        if asked_id in other.ids and call in WITH_ID:
            never = UUID.sub(town.never, asked_id)  # of the same kind
            absent = town.ask(mine, call, never)
            assert answer.status_code == absent.status_code
            assert answer.text.replace(asked_id, never) == absent.text
        else:
            mine.ids |= ids_in(answer) - {asked_id, answer.headers["x-request-id"]}
            if call.body is not None or call.form is not None:
                mine.ids |= ids_in(answer)


def test_the_words_are_there_for_who_may_read_them(town: Town) -> None:
    """Else the test above would prove nothing."""
    for tenant in town.tenants:
        made = town.ask(tenant, CALLS[0], "")
        found = town.ask(
            tenant, Template("GET", "/v1/results/{id}"), made.headers["x-edge-store-id"]
        )
        assert f"answer-{tenant.word}-" in json.loads(found.text)["outputs"][0]["output_text"]
        for part in ("model", "user", "tenant"):
            assert f"{part}-{tenant.word}" in found.text
        assert tenant.word in town.ask(tenant, Template("GET", "/v1/results"), "").text
    page = town.ask(town.auditor, Template("GET", "/v1/results?limit=1000"), "").text
    assert all(tenant.word in page for tenant in town.tenants)


def test_a_key_to_repeat_a_request_is_each_tenants_own(town: Town) -> None:
    call = CALLS[0]
    answers = [
        town.ask(tenant, call, "", **{"idempotency-key": "the same"}) for tenant in town.tenants
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    for tenant, answer in zip(town.tenants, answers, strict=True):
        assert f"answer-{tenant.word}" in answer.text
        assert "idempotency-replayed" not in answer.headers


def test_every_route_is_asked(town: Town) -> None:
    told = town.ask(town.auditor, Template("GET", "/openapi.json"), "").json()["paths"]
    routes = [(method.upper(), path) for path, methods in told.items() for method in methods]
    asked = {(call.method, call.path.partition("?")[0]) for call in CALLS}
    missing = [
        (method, path)
        for method, path in routes
        if not any(
            method == one and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), other)
            for one, other in asked
        )
    ]
    assert missing == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_item_is_there_in_its_own_conversation_only(town: Town, method: str) -> None:
    mine, other = town.tenants
    begin = Template("POST", "/v1/conversations", lambda word: {"items": items(word)})
    page = Template("GET", "/v1/conversations/{id}/items")
    own, foreign = (town.ask(one, begin, "").json()["id"] for one in (mine, other))
    item = town.ask(other, page, foreign).json()["data"][0]["id"]
    for conversation in (own, foreign):
        path = f"/v1/conversations/{conversation}/items/"
        answer = town.ask(mine, Template(method, path + "{id}"), item)
        never = UUID.sub(town.never, item)
        absent = town.ask(mine, Template(method, path + "{id}"), never)
        assert (answer.status_code, absent.status_code) == (404, 404)
        assert answer.text.replace(item, never) == absent.text
        assert other.word not in said(answer)
    assert town.ask(other, page, foreign).json()["data"][0]["id"] == item


def test_the_output_of_a_batch_is_its_own_tenants(town: Town) -> None:
    mine, other = town.tenants
    file = town.ask(other, Template("POST", "/v1/files", form=upload), "").json()["id"]
    made = town.ask(other, Template("POST", "/v1/batches", batch), file).json()["id"]

    def output() -> Any:
        return town.ask(other, Template("GET", "/v1/batches/{id}"), made).json()["output_file_id"]

    name = until(output, "the batch has an output")
    content = Template("GET", "/v1/files/{id}/content")
    assert other.word in town.ask(other, content, name).text
    for call in (content, Template("GET", "/v1/files/{id}"), Template("DELETE", "/v1/files/{id}")):
        answer = town.ask(mine, call, name)
        assert answer.status_code == 404
        assert other.word not in said(answer)
    assert other.word in town.ask(other, content, name).text
