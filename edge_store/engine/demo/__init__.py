"""The embedded demo engine, for trying the appliance and for tests: no GPU, no weights.

It speaks the wire formats of OpenAI on ``/v1/models``, ``/v1/chat/completions`` and
``/v1/completions``, of SGLang 0.5 on ``/generate``, of Anthropic on ``/v1/messages`` and of Ollama
on ``/api/chat`` and ``/api/generate``, and honours what shapes an answer: ``stream``, ``n``,
limits, ``stop``, tools, JSON schemas and simple regular expressions. Answers depend on the request
alone, and each text says that no model made it.

A marker in the last user message (or the prompt) asks for trouble, for demonstrations and tests:

``[demo:broken-json]``
    JSON that was asked for comes with an unquoted key and without its last bracket.
``[demo:truncate]``
    Half of the answer, with ``finish_reason`` ``length``.
``[demo:error]``
    HTTP 500.
``[demo:slow=MS]``
    Each token takes MS milliseconds instead of ``engine.demo.token_delay_ms``, at most 10,000.
``[demo:die]``
    Half of the answer, and then nothing: neither the end of the stream nor of the body.
"""

from edge_store.engine.demo.app import DemoEngine

__all__ = ["DemoEngine"]
