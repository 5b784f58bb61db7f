"""Answers of a real SGLang, as it sent them (tests/golden/transcripts)."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_store.api.routes import GENERATING
from edge_store.recorder.transcript import Asked

FOLDER = Path(__file__).parents[1] / "golden" / "transcripts"
KINDS = {
    ".json": b"application/json",
    ".sse": b"text/event-stream; charset=utf-8",
    ".ndjson": b"application/x-ndjson",
}
ENDPOINTS = {
    "anthropic": "/v1/messages",
    "ollama_chat": "/api/chat",
    "ollama_generate": "/api/generate",
    "generate": "/generate",
    "embeddings": "/v1/embeddings",
}

# Of each stream: how the part of it begins that waits for the commit.
STREAM_ENDS = {
    "anthropic_stream": b"event: message_delta",
    "anthropic_thinking_stream": b"event: message_delta",
    "anthropic_tool_stream": b"event: message_delta",
    "anthropic_too_long_stream": b"event: error",
    "ollama_chat_stream": b'{"model"',
    "ollama_generate_stream": b'{"model"',
    "generate_list_stream": b"data: {",
}


class Golden(NamedTuple):
    """One exchange with the engine."""

    endpoint: str
    request: bytes
    answer: bytes
    kind: bytes  # the answer's content type
    end: int  # where in the answer the part begins that waits for the commit

    @property
    def asked(self) -> Asked:
        return GENERATING[self.endpoint].ask(msgspec.json.decode(self.request))


def golden(name: str) -> Golden:
    """The exchange of this name."""
    (path,) = FOLDER.glob(f"{name}.answer.*")
    answer = path.read_bytes()
    return Golden(
        endpoint=next(at for start, at in ENDPOINTS.items() if name.startswith(start)),
        request=(FOLDER / f"{name}.request.json").read_bytes(),
        answer=answer,
        kind=KINDS[path.suffix],
        end=answer.rindex(STREAM_ENDS[name]) if name in STREAM_ENDS else 0,
    )


def every_golden() -> list[str]:
    """All their names."""
    return sorted(path.name.split(".")[0] for path in FOLDER.glob("*.answer.*"))
