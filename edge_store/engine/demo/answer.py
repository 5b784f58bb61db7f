"""What the demo engine says: a pure function of what was asked."""

import re
from hashlib import blake2b
from itertools import count
from zlib import crc32

import msgspec
from msgspec import Struct

from edge_store.engine.demo.request import ABSENT, TOKEN_CHARS, Form, Function, Order, token_count
from edge_store.engine.pattern import matching

__all__ = ["Answer", "Markers", "answer", "markers_of"]

ECHO_CHARS = 120
ECHO_SCAN_CHARS = 2000  # whitespace is collapsed, so more is looked at than is shown
DELAY_MS_MAX = 10_000.0
EOS_TOKEN_ID = 2
REMARKS = (
    "The same request always gets this answer.",
    "No weights were loaded to say this.",
    "Set engine.kind to sglang or upstream for a real one.",
    "Everything around it is real: this answer is committed before you read its end.",
)
FIRST_KEY = re.compile(r'"([A-Za-z_]\w*)":', re.ASCII)
MARKER = re.compile(r"\[demo:([a-z-]+)(?:=(\d{1,6}))?\]")


class Answer(Struct, frozen=True, kw_only=True):
    """One finished output. ``text`` is the content, or the arguments of the ``tool``."""

    text: str
    finish: str  # stop | length | tool_calls | abort
    matched: str | int | None = None  # the stop text, or the token that ended it
    tool: str | None = None
    call_id: str | None = None
    prompt_tokens: int = 0
    is_first_choice: bool = True  # of its prompt: where the prompt's tokens are counted
    tokens: int

    def aborted_after(self, tokens: int) -> "Answer":
        """What there was of it after so many tokens, or all of it if it had finished by then."""
        if tokens >= self.tokens:
            return self
        text = self.text[: tokens * TOKEN_CHARS]
        return msgspec.structs.replace(self, text=text, tokens=tokens, finish="abort", matched=None)


class Markers(Struct, frozen=True):
    """The trouble that was asked for (see ``edge_store.engine.demo``)."""

    breaks_json: bool = False
    truncates: bool = False
    fails: bool = False
    dies: bool = False
    delay_ms: float | None = None


NO_MARKERS = Markers()


def markers_of(orders: list[Order]) -> Markers:
    """What the markers in any of the prompts ask for."""
    found: dict[str, str] = {}
    for order in orders:
        if "[demo:" in order.said:
            found.update(MARKER.findall(order.said))
    if not found:
        return NO_MARKERS
    slow = found.get("slow")
    return Markers(
        breaks_json="broken-json" in found,
        truncates="truncate" in found,
        fails="error" in found,
        dies="die" in found,
        delay_ms=min(float(slow), DELAY_MS_MAX) if slow else None,
    )


def answer(order: Order, markers: Markers) -> Answer:
    """Answer one order.

    Raises:
        InvalidRequest: nothing has the form that was asked for, or the demo engine cannot find it.
    """
    raw = f"{order.choice}\n{order.prompt}".encode(errors="surrogatepass")
    digest = blake2b(raw, digest_size=12)
    seed = int.from_bytes(digest.digest()[:4])
    tool, call_id = None, None
    if order.tool is not None:
        tool, call_id = order.tool.name, f"call_{digest.hexdigest()}"
        text = _arguments(order.tool, seed)
    elif order.form is not None:
        text = _formed(order.form, order, seed)
    else:
        text = _sentence(order, seed)
    if markers.breaks_json and (tool or (order.form and order.form.kind != "regex")):
        text = _broken(text)
    text, finish, matched = _ended(text, order, markers)
    return Answer(
        text=text,
        finish="tool_calls" if tool and finish == "stop" else finish,
        matched=matched,
        tool=tool,
        call_id=call_id,
        prompt_tokens=order.prompt_tokens,
        is_first_choice=order.choice == 0,
        tokens=token_count(text),
    )


def _sentence(order: Order, seed: int) -> str:
    choice = f"Choice {order.choice + 1}: " if order.choice else ""
    return (
        f"{choice}This is the edge-store demo engine, not a language model. "
        f"You wrote: “{_echo(order.said)}”. {REMARKS[seed % len(REMARKS)]}"
    )


def _echo(said: str) -> str:
    words = " ".join(said[:ECHO_SCAN_CHARS].split())
    return words if len(words) <= ECHO_CHARS else f"{words[:ECHO_CHARS]}…"


def _arguments(tool: Function, seed: int) -> str:
    if tool.parameters == ABSENT:
        return "{}"
    return _instance_text(bytes(tool.parameters), seed)


def _formed(form: Form, order: Order, seed: int) -> str:
    match form.kind:
        case "json":
            document = {"engine": "demo", "choice": order.choice, "you_wrote": _echo(order.said)}
            return msgspec.json.encode(document).decode()
        case "schema":
            return _instance_text(form.source, seed)
        case "regex":
            turns = count()
            return matching(
                str(form.source),
                lambda below: crc32(b"%d:%d" % (seed, next(turns))) % below,
                whole=True,
            )


def _instance_text(schema: str | bytes, seed: int) -> str:
    # jsonschema takes 90 ms to import: only those pay who ask for a schema.
    from edge_store.engine.instance import instance_text  # noqa: PLC0415

    return instance_text(schema, seed)


def _broken(text: str) -> str:
    """JSON with an unquoted key and without its last bracket; scalars stay whole."""
    if not text.endswith(("}", "]")):
        return text
    return FIRST_KEY.sub(r"\1:", text[:-1], count=1)


def _ended(text: str, order: Order, markers: Markers) -> tuple[str, str, str | int | None]:
    """The text up to where it stops, why, and what stopped it."""
    limit = order.max_tokens
    if markers.truncates:
        half = max(token_count(text) // 2, 1)
        limit = half if limit is None else min(half, limit)
    matched: str | int | None = EOS_TOKEN_ID
    finish = "stop"
    if limit is not None and token_count(text) > limit:
        text, finish, matched = text[: limit * TOKEN_CHARS], "length", None
    for stop in order.stops:
        place = text.find(stop)
        if place >= 0:
            text, finish, matched = text[:place], "stop", stop
    return text, finish, matched
