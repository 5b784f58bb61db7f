"""The routes that generate, each with the wire protocol that it speaks."""

from collections.abc import Mapping

from edge_store.recorder.transcript import Dialect
from edge_store.recorder.transcript.anthropic import MessagesDialect
from edge_store.recorder.transcript.embeddings import EmbeddingsDialect
from edge_store.recorder.transcript.generate import GenerateDialect
from edge_store.recorder.transcript.ollama import OllamaChatDialect, OllamaGenerateDialect
from edge_store.recorder.transcript.openai import ChatDialect, CompletionDialect

__all__ = ["GENERATING"]

GENERATING: Mapping[str, Dialect] = {
    "/v1/chat/completions": ChatDialect(),
    "/v1/completions": CompletionDialect(),
    "/v1/embeddings": EmbeddingsDialect(),
    "/generate": GenerateDialect(),
    "/v1/messages": MessagesDialect(),
    "/api/chat": OllamaChatDialect(),
    "/api/generate": OllamaGenerateDialect(),
}
