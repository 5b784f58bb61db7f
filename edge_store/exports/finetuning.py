"""OpenAI's format for fine-tuning chats: a line has ``messages`` that end with the answer, and
``tools`` (https://platform.openai.com/docs/guides/supervised-fine-tuning).
"""

from typing import Any

from edge_store.exports.chats import Chat, Encode, open_chats
from edge_store.exports.kinds import Export, Job
from edge_store.exports.mark import Mark

__all__ = ["open_export"]


def open_export(job: Job, mark: Mark) -> Export:
    """A file of chats."""
    return open_chats(job, mark, _line)


def _line(chat: Chat) -> bytes:
    line: dict[str, Any] = {"messages": [*chat.messages, chat.answer]}
    if chat.tools:
        line["tools"] = chat.tools
    return Encode.encode(line) + b"\n"
