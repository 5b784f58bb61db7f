"""What the processes of a load are told, what they answer, and what each of their requests is."""

from enum import StrEnum

from edge_store.result import Record

__all__ = ["DRAIN_TIMEOUT_S", "Mode", "Order", "Outcome", "request_bytes"]

TOKENS_MIN, TOKENS_MAX = 16, 32  # of an answer: request n asks for 16 + n % 17
WORDS_MIN, WORDS_MAX = 8, 40  # of a prompt
DRAIN_TIMEOUT_S = 60.0  # after its window, an order waits so long for what is under way
VOCABULARY = (
    *("printer", "floor", "sensor", "invoice", "value", "reading", "temperature", "customer"),
    *("broken", "urgent", "wrong", "third", "line", "order", "shipment", "reply", "before", "noon"),
    *("please", "check", "the", "again", "and", "tell", "me", "what", "is", "with", "it", "today"),
)


class Mode(StrEnum):
    """How answers are asked for."""

    PLAIN = "plain"
    STREAMED = "streamed"
    MIXED = "mixed"


class Order(Record, frozen=True, kw_only=True):
    """A loop over ``connections`` until ``ends_at``; only what ends in the window counts. Callers
    ask again at once, or every ``every_s`` on average if they have their answer by then.

    Times are of the monotonic clock, which all processes of a machine share.
    """

    port: int
    connections: int
    mode: Mode
    first_number: int  # of its requests: no two orders of a run ask the same
    begins_at: float
    ends_at: float
    every_s: float = 0.0
    tenants: tuple[int, ...] = ()  # callers of each; then a refusal is no failure: they come again


class Outcome(Record, frozen=True, kw_only=True):
    """What came of an order."""

    latencies_s: list[float]
    ttfts_s: list[float]  # streamed answers only
    tokens: int
    acknowledged: list[str]  # ids of all answers seen to their end, before and after the window too
    unanswered: int  # connections that were lost with a request under way
    failures: int
    messages: list[str]  # of the first failures
    refused: list[int]  # 503 and 429 in the window, of each tenant
    answers: list[int]  # in the window, of each tenant
    cpu_s: float
    wall_s: float


def request_bytes(number: int, *, stream: bool, tenant: int | None = None) -> bytes:
    """A chat that differs from every other one, of the same work for whoever is asked."""
    words = WORDS_MIN + number % (WORDS_MAX - WORDS_MIN + 1)
    prompt = " ".join(VOCABULARY[(number * 7 + at * 3) % len(VOCABULARY)] for at in range(words))
    tokens = TOKENS_MIN + number % (TOKENS_MAX - TOKENS_MIN + 1)
    options = ',"stream":true,"stream_options":{"include_usage":true}' if stream else ""
    payload = (
        f'{{"model":"bench","messages":[{{"role":"user","content":"Ticket {number}: {prompt}"}}],'
        f'"max_tokens":{tokens},"temperature":0.8,"ignore_eos":true{options}}}'
    ).encode()
    key = b"" if tenant is None else b"authorization: Bearer tenant-%d\r\n" % tenant
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"%bcontent-length: %d\r\n\r\n%b" % (key, len(payload), payload)
    )
