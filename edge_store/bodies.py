"""The text of an answer lies in the file once: in its output. It is taken out of the response's
bytes where they are written, and put in where they are read (docs/adr/0021).
"""

from typing import Any

import msgspec

__all__ = ["complete", "with_text", "without_text"]

TEXT_CHARS_MIN = 64  # what is shorter is not worth the putting together
BODIES_SINCE = 11  # version of the schema, which has the view `bodies` from then on


def without_text(body: bytes, text: str) -> tuple[bytes, int | None]:
    """The response's bytes without the text, and where the view ``bodies`` puts it in again: as the
    string that SQLite's ``json_quote`` makes, so only what is written like that is taken out.
    """
    if not TEXT_CHARS_MIN <= len(text) <= len(body):
        return body, None
    written = msgspec.json.encode(text)
    place = body.find(written)
    if place < 0:
        return body, None
    return body[:place] + body[place + len(written) :], place


def with_text(body: bytes, place: int | None, text: str | None) -> bytes:
    """The response's bytes as they came; without its text where that is gone."""
    if place is None or text is None:
        return body
    return body[:place] + msgspec.json.encode(text) + body[place:]


def complete(connection: Any) -> None:
    """Let bodies be read by their view in an older file, too, which lacks it: there they are all in
    their table. Once that is migrated by another, the view is none any more, so that nobody reads
    what lacks a text.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if 0 < version < BODIES_SINCE:
        connection.execute(
            "CREATE TEMP VIEW bodies (seq, input_text, request_body, response_body) AS "
            "SELECT * FROM requests"
        )
