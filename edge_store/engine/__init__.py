"""Engines: each is an ASGI application that speaks the OpenAI and SGLang HTTP API."""

from edge_store.engine.protocol import AlwaysUp, ASGIMessage, Engine, Receive, Scope, Send

__all__ = ["ASGIMessage", "AlwaysUp", "Engine", "Receive", "Scope", "Send"]
