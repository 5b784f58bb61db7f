"""Malformed requests against a live daemon: ``http_fuzz.py NUMBER [--seed N]``.

Two tenants have keys and results. Whoever has the first one's key, a wrong key or none sends what
no client would: broken JSON, wrong types, deep nesting, bad UTF-8, bad headers, odd chunks, wrong
methods, odd addresses. No answer may be a 5xx but 503 and 507, none may hold a byte of the second
tenant's, each request that is whole gets an answer, and the daemon's memory stays what it is.
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from support.changing import change_some
from support.clients import Keyed, keyed

__all__ = ["PARTS", "Report", "fuzz"]

CANARY = "canary-of-the-second-tenant"
CONNECTIONS = 8
PATIENCE_S = 60.0
QUIET_S = 0.3  # for an answer that need not come, or does not end
ANSWER_BYTES_MAX = 1 << 22
ALLOWED_5XX = (503, 507)
FOUND_MAX = 20
PARTS = 20
# Of a long run's second half. Until then SQLite's page caches (2 MiB a connection) and the
# allocators' arenas fill: docs/testing.md has the figures.
GROWTH_BYTES_MAX = 4 << 20
DEPTHS = (10, 999, 1001, 20_000)
PLACE = re.compile(r"\{\w+\}")
USER = [{"role": "user", "content": "hi"}]
BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": "demo", "messages": USER, "n": 1, "stream": False, "metadata": {"k": "v"},
        "stop": ["x"], "max_tokens": 5, "response_format": {"type": "json_object"}, "user": "u",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    },
    "/v1/completions": {"model": "demo", "prompt": ["a", "b"], "n": 2, "max_tokens": 4},
    "/v1/embeddings": {"model": "demo", "input": ["a"]},
    "/generate": {"text": ["a"], "sampling_params": {"max_new_tokens": 3, "regex": "[ab]"}},
    "/v1/messages": {"model": "demo", "messages": USER, "max_tokens": 5, "system": "s"},
    "/api/chat": {"model": "demo", "messages": USER, "format": "json", "options": {"stop": "x"}},
    "/api/generate": {"model": "demo", "prompt": "a", "options": {"num_predict": 3}},
    "/v1/query": {"sql": "SELECT * FROM results", "params": {"a": 1}, "rows_max": 5},
    "/v1/responses": {"model": "demo", "input": "hi", "metadata": {"k": "v"}, "store": True},
    "/v1/batches": {"input_file_id": "f", "endpoint": "/v1/completions", "metadata": {}},
    "/v1/conversations": {"items": [{"type": "message", "role": "user", "content": "hi"}]},
}  # fmt: skip
QUERIES = (
    "limit=0", "limit=1e9", "limit=99999999999999999999999", "limit=-1", "limit=%00", "order=up",
    "after=%ff%fe", "after_seq=-1", "after_seq=9223372036854775808", "before_seq=x", "wait_s=999",
    "metadata[]=x", "metadata[%00]=%ff", "metadata=x", "since=9999999-01-01", "until=NaN",
    f"after={'a' * 5000}", "status=odd", "&&&&=", "part=both", "tenant=second",
    "model=%F0%28%8C%28",
)  # fmt: skip
HEADERS = (
    b"Idempotency-Key: " + b"k" * 256, b"Idempotency-Key:", b"Idempotency-Key: \xff\xfe",
    b"Content-Type: text/\xff", b"Content-Type: multipart/form-data; boundary=", b"X: \x00",
    b"Accept: text/event-stream", b"Accept: " + b"a," * 9000, b"no colon", b": no name",
    b"Host: a\r\nHost: b", b"X-Api-Key: es-\xff", b"Authorization: Basic x", b" folded: x",
    b"Authorization: Bearer", b"traceparent: 00-zz-zz-zz", b"X-Edge-Store-Record: odd",
    b"X-Edge-Store-Json: repaired", b"X-Edge-Store-Json: \xff", b"X-Edge-Store-Record: off",
    b"Prefer: respond-async, wait=x", b"Expect: 100-continue", b"Upgrade: websocket",
    b"Content-Encoding: gzip", b"Range: bytes=5-1", b"X-Forwarded-For: \xff",
    b"X: " + b"y" * 70_000,
    b"Cookie: " + b"c=" * 3000, b"Transfer-Encoding: identity", b"Content-Length: 5",
)  # fmt: skip
METHODS = (
    b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"OPTIONS", b"HEAD", b"get", b"GETT", b"",
    b"\xff", b"PROPFIND", b"POST", b"GET", b"A" * 300,
)  # fmt: skip
TARGETS = (
    "//", "/%00", "/../../etc/passwd", "/%2e%2e/%2e%2e/x", "/v1/results/..%2f..%2f", "*", "",
    "http://elsewhere/v1/results", "/v1/results/" + "a" * 30_000, "/v1//results", "/v1/results/",
    "/?" + "a=b&" * 5000, "/\\x", "/v1/results/%ff%fe", "/v1/chat/completions/%F0%9F%98%80",
)  # fmt: skip
PIECES = (
    b"", b"\xff", b"\x00", b"\xc0\xaf", b"\xed\xa0\x80", b"NaN", b"1e999", b"\\ud800", b"9" * 400,
    b'"', b"{", b"[" * 50,
)  # fmt: skip
CHUNKS = (
    b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b'2;a=b;c="\xff"\r\n{}\r\n0\r\n\r\n',
    b"2\r\n{}0\r\n\r\n", b"2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n", b"ffffffffffffffffff\r\n{}\r\n",
    b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"2\n{}\n0\n\n",
    b"00002\r\n{}\r\n0\r\n\r\n",
)  # fmt: skip


class Case(NamedTuple):
    """``is_whole``: it must be answered, if only by a refusal."""

    kind: str
    sent: bytes
    is_whole: bool = True


class Report(NamedTuple):
    """What came of it."""

    statuses: Counter[str]
    found: list[str]
    rss: list[int]  # bytes, after each twentieth
    seconds: float


class Maker:
    """Makes the cases: the same ones from the same seed."""

    def __init__(self, routes: list[tuple[str, str]], keys: list[str], ids: list[str]) -> None:
        self._routes = routes
        self._keys = keys
        self._ids = ids

    def case(self, random_: random.Random) -> Case:
        method, path = random_.choice(self._routes)
        place = random_.choice([*self._ids, *self._ids, "%00", "x" * 300, "%F0%9F%98%80", "null"])
        target = PLACE.sub(place, path)
        body = json.dumps(BODIES.get(path, {"metadata": {"k": "v"}})).encode()
        kinds = [self._changed, self._broken, self._nested, self._framed, self._headed]
        kinds += [self._methods, self._targets, self._queries, self._changed, self._changed]
        if method != "POST":
            kinds = kinds[4:8]
        return random_.choice(kinds)(random_, method.encode(), target, body)

    def _changed(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        """Whole JSON with wrong values in it."""
        for _ in range(random_.randrange(1, 4)):
            body = change_some(body, random_) or body
        return Case("changed", self._request(random_, method, target, body))

    def _broken(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        place = random_.randrange(len(body))
        piece = random_.choice(PIECES)
        cut = random_.choice([0, 1, 5, len(body)])
        return Case(
            "broken",
            self._request(random_, method, target, body[:place] + piece + body[place + cut :]),
        )

    def _nested(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        depth = random_.choice(DEPTHS)
        opening, closing = random_.choice([(b"[", b"]"), (b'{"a":', b"}")])
        deep = opening * depth + b"1" + closing * depth
        name = random_.choice([b"x", b"metadata", b"messages", b"prompt", b"tools", b"input"])
        return Case(
            "nested",
            self._request(random_, method, target, body[:-1] + b',"%b":%b}' % (name, deep)),
        )

    def _framed(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        """What the length of the body is said to be is odd."""
        match random_.randrange(4):
            case 0:
                chunks = random_.choice(CHUNKS)
                more = b"Transfer-Encoding: chunked\r\n"
                if random_.random() < 0.3:
                    more += b"Content-Length: 2\r\n"
                head = self._head(random_, method, target, more)
                return Case("chunked", head + chunks, is_whole=False)
            case 1:
                size = random_.choice([b"-1", b"x", b"1e3", b"9" * 30, b"+5", b"0x5", b""])
            case 2:
                size = b"%d" % (len(body) + 10)
            case _:
                size = b"%d" % max(0, len(body) - 10)
        head = self._head(random_, method, target, b"Content-Length: " + size + b"\r\n")
        return Case("length", head + body, is_whole=False)

    def _headed(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        more = b"".join(h + b"\r\n" for h in random_.sample(HEADERS, random_.randrange(1, 3)))
        return Case("headers", self._request(random_, method, target, body, more), is_whole=False)

    def _methods(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        method = random_.choice(METHODS)
        return Case("methods", self._request(random_, method, target, body), is_whole=False)

    def _targets(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        target = random_.choice(TARGETS)
        return Case("targets", self._request(random_, method, target, body), is_whole=False)

    def _queries(self, random_: random.Random, method: bytes, target: str, body: bytes) -> Case:
        wanted = [*QUERIES, *(f"after={one}" for one in self._ids)]
        target += "?" + "&".join(random_.sample(wanted, random_.randrange(1, 4)))
        is_whole = "/v1/changes" not in target  # it may wait
        return Case("queries", self._request(random_, method, target, body), is_whole)

    def _request(
        self, random_: random.Random, method: bytes, target: str, body: bytes, more: bytes = b""
    ) -> bytes:
        more += b"Content-Length: %d\r\n" % len(body)
        return self._head(random_, method, target, more) + body

    def _head(self, random_: random.Random, method: bytes, target: str, more: bytes) -> bytes:
        key = random_.choice(self._keys).encode()
        return b"%b %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b%b\r\n" % (
            method,
            target.encode(),
            b"Authorization: Bearer %b\r\n" % key if key else b"",
            more,
        )


class Attack:
    """Sends the cases, and keeps what should not have been."""

    def __init__(self, url: str, maker: Maker, seed: int) -> None:
        parsed = httpx.URL(url)
        self._where = (parsed.host, parsed.port)
        self._maker = maker
        self._seed = seed
        self.statuses: Counter[str] = Counter()
        self.found: list[str] = []

    async def send(self, numbers: range) -> None:
        waiting = iter(numbers)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(self._work(waiting))

    async def _work(self, waiting: Iterator[int]) -> None:
        for number in waiting:
            if len(self.found) >= FOUND_MAX:
                return
            case = self._maker.case(random.Random(f"{self._seed}:{number}"))
            answer = await self._ask(case)
            self._judge(number, case, answer)

    async def _ask(self, case: Case) -> bytes:
        """What came back; it may be cut."""
        reader, writer = await asyncio.open_connection(*self._where)
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        answer = bytearray()
        try:
            async with asyncio.timeout(PATIENCE_S if case.is_whole else QUIET_S):
                writer.write(case.sent)
                await writer.drain()
                while len(answer) < ANSWER_BYTES_MAX and (piece := await reader.read(65536)):
                    answer += piece
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return bytes(answer)

    def _judge(self, number: int, case: Case, answer: bytes) -> None:
        status = answer[9:12].decode("ascii", "replace") if answer.startswith(b"HTTP/1.1 ") else ""
        self.statuses[f"{case.kind} {status or 'none'}"] += 1
        problem = None
        if CANARY.encode() in answer:
            problem = "a byte of the other tenant"
        elif answer and not status.isdigit():
            problem = "no HTTP"
        elif status.startswith("5") and int(status) not in ALLOWED_5XX:
            problem = f"status {status}"
        elif case.is_whole and not answer:
            problem = "no answer"
        if problem:
            self.found.append(f"#{number} {problem}: {case.sent[:600]!r} -> {answer[:400]!r}")


def fuzz(directory: Path, number: int, seed: int) -> Report:
    """Send so many requests to a daemon of their own."""
    began = time.monotonic()
    with keyed(directory) as box:
        second = box.create("--tenant", "second")
        ids = [_planted(box, second, CANARY), _planted(box, box.key, "the first tenant's")]
        maker = Maker(_routes(box), [*[box.key] * 6, "es-wrong", ""], ids)
        attack = Attack(box.url, maker, seed)
        rss: list[int] = []
        for part in range(PARTS):
            asyncio.run(attack.send(range(number * part // PARTS, number * (part + 1) // PARTS)))
            rss.append(_rss(box.daemon.process_id))
        own = {"authorization": f"Bearer {second}"}
        kept = box.daemon.get(f"/v1/results/{ids[0]}", headers=own)
        if CANARY not in kept.text:
            attack.found.append(f"the other tenant's result is no longer whole: {kept.text}")
        if box.daemon.tracebacks():
            attack.found.append(f"the log has a traceback: {box.daemon.tracebacks()[0]}")
            box.daemon.raw.clear()
            box.daemon.log.clear()
    return Report(attack.statuses, attack.found, rss, time.monotonic() - began)


def _planted(box: Keyed, key: str, text: str) -> str:
    """A result with this text wherever it can be."""
    made = box.daemon.post(
        "/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={
            "model": text,
            "messages": [{"role": "user", "content": text}],
            "store": True,
            "user": text,
            "metadata": {"k": text},
        },
    )
    assert made.status_code == 200, made.text
    return str(made.headers["x-edge-store-id"])


def _routes(box: Keyed) -> list[tuple[str, str]]:
    """Of the document."""
    told = box.daemon.get("/openapi.json", headers={"authorization": f"Bearer {box.key}"}).json()
    return [(method.upper(), path) for path, methods in told["paths"].items() for method in methods]


def _rss(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def main() -> int:
    """Print what came of it; 1 if anything should not have been."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = fuzz(Path(directory), asked.number, asked.seed)
    for name, count in sorted(report.statuses.items()):
        print(f"{count:8} {name}")
    print(f"seed {asked.seed}: {asked.number} requests in {report.seconds:.0f} s")
    curve = " ".join(f"{rss / 2**20:.1f}" for rss in report.rss)
    print(f"memory in MiB after each twentieth: {curve}")
    grown = report.rss[-1] - report.rss[PARTS // 2 - 1]
    if grown > GROWTH_BYTES_MAX:
        report.found.append(f"memory grew by {grown} bytes in the second half")
    for problem in report.found:
        print(f"FOUND {problem}")
    return 1 if report.found else 0


if __name__ == "__main__":
    raise SystemExit(main())
