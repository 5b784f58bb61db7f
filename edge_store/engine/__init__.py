"""Engines: each is an ASGI application that speaks the OpenAI and SGLang HTTP API."""

from edge_store.engine.protocol import ASGIMessage, Engine, Receive, Scope, Send

__all__ = ["ASGIMessage", "Engine", "Receive", "Scope", "Send"]
