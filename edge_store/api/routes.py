"""The routes: those that generate, each with the wire protocol that it speaks, those that are the
engine's, and the right that a key must have for each.
"""

import re
from collections.abc import Mapping

from edge_store.recorder.caller import Right
from edge_store.recorder.transcript import Dialect
from edge_store.recorder.transcript.anthropic import MessagesDialect
from edge_store.recorder.transcript.embeddings import EmbeddingsDialect
from edge_store.recorder.transcript.generate import GenerateDialect
from edge_store.recorder.transcript.ollama import OllamaChatDialect, OllamaGenerateDialect
from edge_store.recorder.transcript.openai import ChatDialect, CompletionDialect

__all__ = [
    "BODILESS",
    "GENERATING",
    "OPERATING",
    "PASSING",
    "READING",
    "STORED",
    "UNBOUNDED",
    "WATCHING",
    "needs_room",
    "rights_for",
]

GENERATING: Mapping[str, Dialect] = {
    "/v1/chat/completions": ChatDialect(),
    "/v1/completions": CompletionDialect(),
    "/v1/embeddings": EmbeddingsDialect(),
    "/generate": GenerateDialect(),
    "/v1/messages": MessagesDialect(),
    "/api/chat": OllamaChatDialect(),
    "/api/generate": OllamaGenerateDialect(),
}

# of these, those that list what is stored when they are read
STORED = frozenset({"/v1/chat/completions"})
# SGLang's frontend language asks for its model before anything else
PASSING = frozenset({"/v1/models", "/get_model_info", "/model_info"})
READING = ("GET", "HEAD")
BODILESS = (*READING, "DELETE", "OPTIONS")  # whatever comes with them is not read
UNBOUNDED = frozenset(
    {"/v1/files"}
)  # routes of ours that read their body by themselves, as it comes
# What an operator needs of SGLang's administration; without the right they are not there.
OPERATING: Mapping[str, tuple[str, ...]] = {
    "/flush_cache": ("POST",),
    "/server_info": READING,
    "/get_server_info": READING,
}
WATCHING = ("/livez", "/readyz", "/metrics")  # answered however many connections there are

# One right of each group is needed.
Needed = tuple[frozenset[Right], ...]
ANY: Needed = (frozenset(Right),)
ADMIN: Needed = (frozenset({Right.ADMIN}),)
GENERATE: Needed = (frozenset({Right.GENERATE}),)
READ: Needed = (frozenset({Right.READ_OWN, Right.READ_ALL}),)
# What is not here is read with a right to read, and made, changed and deleted with the right to
# generate.
NEEDED: Mapping[str, Needed] = {
    **dict.fromkeys(PASSING, ANY),
    **dict.fromkeys(OPERATING, ADMIN),
    **dict.fromkeys(WATCHING, ANY),
    "/openapi.json": ANY,
    "/metrics": (frozenset({Right.READ_ALL, Right.ADMIN}),),  # it tells of all tenants
    "/v1/query": ADMIN,
}
# These change something, and answer with what was stored before.
TELLING = (
    ("POST", re.compile(r"/v1/chat/completions/[^/]+")),
    ("POST", re.compile(r"/v1/responses/[^/]+/cancel")),
    ("DELETE", re.compile(r"/v1/conversations/[^/]+/items/[^/]+")),
)


def needs_room(method: str, path: str) -> bool:
    """Whether a request to a route of ours adds to the disk. What deletes, ends or only reads finds
    room on the fullest one.
    """
    return method == "POST" and path != "/v1/query" and not path.endswith("/cancel")


def rights_for(method: str, path: str) -> Needed:
    """One right of each group."""
    found = NEEDED.get(path)
    if found is not None:
        return found
    if path.startswith("/v1/models/"):
        return ANY
    if method in READING:
        return READ
    tells = any(method == one and pattern.fullmatch(path) for one, pattern in TELLING)
    return GENERATE + READ if tells else GENERATE
