"""A daemon with one of the engines, as the tests that hold for every engine see it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from support.daemon import DEADLINE_S, Box, DaemonProcess
from support.sglang import MODEL, START_S, box_settings, environ, sglang_server

__all__ = ["ADMIN_KEY", "Appliance", "Stream", "appliance", "new_box", "user"]

ADMIN_KEY = "key of an operator, in tests"


class Stream(NamedTuple):
    """A streamed answer that was read to its end."""

    headers: httpx.Headers
    chunks: list[dict[str, Any]]  # without `data: [DONE]`
    is_done: bool  # whether that was its last event

    @property
    def text(self) -> str:
        """Of the first choice of a chat or a completion."""
        pieces = (choice for chunk in self.chunks for choice in chunk["choices"])
        return "".join(
            (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
            for choice in pieces
        )


class Appliance:
    """``daemon`` and what to ask it for."""

    def __init__(self, kind: str, model: str, daemon: DaemonProcess) -> None:
        self.kind = kind
        self.model = model
        self.daemon = daemon

    def ask(self, path: str, **body: Any) -> httpx.Response:
        """POST a request; the model is filled in where the route takes one."""
        return self.daemon.post(path, json=self._body(path, body))

    def chat(self, prompt: str, **body: Any) -> httpx.Response:
        return self.ask("/v1/chat/completions", messages=user(prompt), **body)

    def stream(self, path: str, **body: Any) -> Stream:
        """POST a request with ``stream`` and read its events."""
        answer = self.daemon.post(path, json=self._body(path, {**body, "stream": True}))
        assert answer.status_code == 200, answer.text
        events = [
            line.removeprefix("data: ")
            for line in answer.text.splitlines()
            if line.startswith("data: ")
        ]
        is_done = events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        return Stream(answer.headers, chunks, is_done)

    def first_piece(self, path: str, **body: Any) -> tuple[str, str]:
        """Begin a stream, and leave with its first piece of text: the id and that text."""
        sent = self._body(path, {**body, "stream": True})
        with httpx.stream(
            "POST", self.daemon.url + path, json=sent, timeout=DEADLINE_S, trust_env=False
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line.removeprefix("data: "))["choices"]
                    text = "".join(choice["delta"].get("content") or "" for choice in choices)
                    if text:
                        return answer.headers["x-edge-store-id"], text
        raise AssertionError("the stream had no text")

    def row(self, answer: httpx.Response | Stream | str) -> dict[str, Any]:
        """The stored result, its outputs within, of an answer or an id."""
        result_id = answer if isinstance(answer, str) else answer.headers["x-edge-store-id"]
        found = self.daemon.get(f"/v1/results/{result_id}")
        assert found.status_code == 200, found.text
        row: dict[str, Any] = found.json()
        return row

    def _body(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return body if path == "/generate" else {"model": self.model, **body}


def user(text: str) -> Any:
    """The messages of a chat."""
    return [{"role": "user", "content": text}]


def new_box(kind: str, directory: Path, upstream: str = "") -> Box:
    """A box with that engine, which is ``upstream``'s server if it is one."""
    settings: dict[str, str] = {}
    if kind == "upstream":
        settings = {"ENGINE__KIND": "upstream", "ENGINE__UPSTREAM__BASE_URL": upstream}
    if kind == "sglang":
        settings = box_settings()
    return Box.init(directory, **settings)


@contextmanager
def appliance(kind: str, directory: Path) -> Iterator[Appliance]:
    """A daemon whose ``engine.kind`` is ``kind``, and at its end a clean stop and a whole chain."""
    with ExitStack() as stack:
        upstream = ""
        if kind == "upstream":
            upstream = stack.enter_context(sglang_server(directory / "sglang.log")).url
        box = new_box(kind, directory / "box", upstream)
        environment = {**box.environ, "EDGE_STORE_ADMIN_KEY": ADMIN_KEY}
        environment |= environ() if kind == "sglang" else {}
        daemon = DaemonProcess(box, environment, start_deadline_s=START_S)
        with daemon:
            yield Appliance(kind, "demo" if kind == "demo" else MODEL, daemon)
            assert daemon.stop() == 0, daemon.output()
        box.proven()
