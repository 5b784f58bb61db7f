"""What full-text search costs: to ask a million results, and to keep its index beside a writer.

Each question is asked as a command asks it, with a connection of its own, again and again with
other words; its bound is for the 95th percentile of the wall times, and the CPU time stands beside
it, which other load on the machine does not lengthen. The indexer is the daemon's own, following
commits of texts of ordinary length at a steady rate.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edge_store.alerts import Alarms
from edge_store.bench.figures import Figure, at_most, median, percentile
from edge_store.bench.history import History
from edge_store.config import Config
from edge_store.observability.looplag import measured_lag
from edge_store.observability.metrics import Metrics
from edge_store.recorder.around import Around
from edge_store.recorder.commits import Commits
from edge_store.recorder.disk import Disk
from edge_store.result import Boot, Content, Result, Status
from edge_store.search.asked import parse
from edge_store.search.file import IndexBroken, index_bytes, index_path, position_of
from edge_store.search.find import Wanted, search
from edge_store.search.following import follow
from edge_store.search.index import catch_up
from edge_store.selection import Selection
from edge_store.sql import sql, sql_of
from edge_store.sqlite import open_reader

__all__ = ["bench_search"]

ASKED_P95_MS_MAX = 50.0
SHARE_MAX = 1 / 3
LAG_S_MAX = 1.0
TIMES = 41
LOOK_S = 0.02
COMMITS_PER_S = 10
WINDOWS, WINDOW_S, SETTLE_S = 8, 3.0, 1.0
PROMPT_WORDS, ANSWER_WORDS = 80, 250  # some 2 KB
VOCABULARY = 20_000
SYLLABLES = tuple(first + "aeiou"[n % 5] for n, first in enumerate("bcdfghjklmnprstvwxyz"))
HAN_FIRST, HAN_COUNT = 0x4E00, 3000
HAN_CHARS, CLAUSE_CHARS = 700, 10
MIXED = "東京の天気は晴れです🎉 std::vector<int> مرحبا "  # one in so many has it:
MIXED_EVERY = 1000


class Question(NamedTuple):
    """``asked`` of n: what is asked the n-th time."""

    name: str
    asked: Callable[[int], str]
    selection: Selection = Selection()
    is_newest: bool = False


def _ticket(number: int) -> str:
    return str(10_000 + 977 * number)


QUESTIONS = (
    Question("a word that most have", lambda _n: "printer"),
    Question("the same, newest first", lambda _n: "printer", is_newest=True),
    Question("five such words", lambda _n: "the printer queue was full"),
    Question("a phrase that most have", lambda _n: '"queue was full"'),
    Question("a prefix that most have", lambda _n: "print*"),
    Question("a prefix of numbers", lambda n: f"{100 + n}*"),
    Question("common words and NOT", lambda n: f"printer AND floor NOT {n % 9}"),
    Question("a word that most have, of a model and a status", lambda _n: "printer",
             Selection(model="gemma-3-4b", status=Status.COMPLETED)),
    Question("a part of a common word", lambda _n: "rinte"),
    Question("a part of numbers", lambda n: f"{_ticket(n)}"),
    Question("code", lambda _n: "std::vector<int>"),
    Question("two characters of Chinese", lambda _n: "天気"),
    Question("an emoji", lambda _n: "🎉"),
    Question("a word that none has", lambda n: f"absent{n}"),
)  # fmt: skip


LONG_EVERY = (
    50  # of long texts a fiftieth: what a question takes of them is bounded, not their number
)
LONG = (
    Question("texts of 2 KB: a word that most have", lambda _n: "printer"),
    Question("texts of 2 KB: a phrase that most have", lambda _n: '"queue was full"'),
    Question("texts of 2 KB: a part of a common word", lambda _n: "rinte"),
)
HAN = (Question("texts of 2 KB of Chinese: a word that most have", lambda _n: "天気予報"),)


async def bench_search(
    folder: Path, *, rows: int, seconds: float, rate: int, say: Callable[[str], None]
) -> list[Figure]:
    """Ask ``rows`` results; then follow ``rate`` results a second for ``seconds``."""
    figures = await asyncio.to_thread(_asked, folder, rows, say)
    figures += await asyncio.to_thread(_asked_long, folder, max(1, rows // LONG_EVERY), say)
    figures += await _followed(folder, rate, seconds)
    return [*figures, *await _beside(folder, rate)]


def _mixed(result: Result, number: int) -> Result:
    if number % MIXED_EVERY:
        return result
    (output,) = result.outputs
    text = msgspec.structs.replace(output, output_text=MIXED + output.output_text)
    return msgspec.structs.replace(result, outputs=(text,))


def _asked(folder: Path, rows: int, say: Callable[[str], None]) -> list[Figure]:
    path = folder / "asked.db"
    with closing(History(path, rows, varied=_mixed)) as history:
        history.grow(rows, say)
        with closing(open_reader(path)) as reader:
            index = folder / "asked.search.db"
            cpu = time.thread_time()
            built = catch_up(index, reader, lambda at, of: say(f"indexed {at} of {of}"))
            cpu = time.thread_time() - cpu
            built.close()
            (chars,) = reader.execute(sql("bench_text_bytes")).fetchone()
        figures = [
            Figure(name="index, CPU", value=cpu / rows * 1e6, unit="µs/row"),
            Figure(name="index, size", value=index_bytes(index) / rows, unit="B/row"),
            Figure(name="index, size ÷ texts", value=index_bytes(index) / chars, unit="ratio"),
        ]
        for question in QUESTIONS:
            figures += _times(path, index, question)
    return figures


def _asked_long(folder: Path, rows: int, say: Callable[[str], None]) -> list[Figure]:
    figures = []
    for name, varied, questions in (("long", _long, LONG), ("han", _han, HAN)):
        path, index = folder / f"{name}.db", folder / f"{name}.search.db"
        with closing(History(path, rows, varied=varied)) as history:
            history.grow(rows, say)
            with closing(open_reader(path)) as reader:
                catch_up(index, reader, lambda at, of: say(f"indexed {at} of {of}")).close()
            for question in questions:
                figures += _times(path, index, question)
    return figures


def _times(path: Path, index: Path, question: Question) -> list[Figure]:
    walls, cpus, found = [], [], 0
    for n in range(TIMES + 1):
        wanted = Wanted(
            text=parse(question.asked(n)),
            selection=question.selection,
            is_newest=question.is_newest,
        )
        started, cpu = time.perf_counter(), time.thread_time()
        with closing(open_reader(path)) as reader:
            answer = search(reader, [index], wanted)
        walls.append((time.perf_counter() - started) * 1e3)
        cpus.append((time.thread_time() - cpu) * 1e3)
        assert answer.has_index, question.name
        assert not answer.is_out_of_time, question.name
        found += len(answer.found)
    name = f"{question.name} ({found / (TIMES + 1):.0f} found)"
    return [
        Figure(name=f"{name}, p50", value=percentile(walls[1:], 0.5), unit="ms"),
        at_most(f"{name}, p95", percentile(walls[1:], 0.95), ASKED_P95_MS_MAX, "ms"),
        Figure(name=f"{name}, CPU p95", value=percentile(cpus[1:], 0.95), unit="ms"),
    ]


def _prose(result: Result, number: int) -> Result:
    """Some 2 KB of words, the more frequent the earlier in the vocabulary."""
    noise = hashlib.shake_128(str(number).encode()).digest(4 * (PROMPT_WORDS + ANSWER_WORDS))
    words = [
        _word(int(VOCABULARY ** (int.from_bytes(noise[n : n + 4], "big") / 2**32)))
        for n in range(0, len(noise), 4)
    ]
    (output,) = result.outputs
    answer = " ".join(words[PROMPT_WORDS:])
    return msgspec.structs.replace(
        result,
        outputs=(msgspec.structs.replace(output, output_text=answer),),
        content=Content(
            input_text=" ".join(words[:PROMPT_WORDS]), request_body=b"{}", response_body=b"{}"
        ),
    )


def _long(result: Result, number: int) -> Result:
    """The same with words that all have."""
    result = _prose(result, number)
    (output,) = result.outputs
    text = f"{output.output_text} the printer queue was full"
    return msgspec.structs.replace(
        result, outputs=(msgspec.structs.replace(output, output_text=text),)
    )


def _han(result: Result, number: int) -> Result:
    """700 characters, three bytes each, in clauses."""
    noise = hashlib.shake_128(str(number).encode()).digest(2 * HAN_CHARS)
    clauses = [
        "".join(chr(HAN_FIRST + int.from_bytes(noise[at + n : at + n + 2], "big") % HAN_COUNT)
                for n in range(0, 2 * CLAUSE_CHARS, 2))
        for at in range(0, len(noise), 2 * CLAUSE_CHARS)
    ]  # fmt: skip
    (output,) = result.outputs
    text = "天気予報。" + "、".join(clauses)
    return msgspec.structs.replace(
        result, outputs=(msgspec.structs.replace(output, output_text=text),)
    )


def _word(number: int) -> str:
    word = ""
    while True:
        word += SYLLABLES[number % len(SYLLABLES)]
        number //= len(SYLLABLES)
        if not number:
            return word


def _around(folder: Path, boot: Boot) -> Around:
    """What the daemon would give the indexer of the database in ``folder``."""
    path, metrics = folder / "results.db", Metrics()
    return Around(
        Config(), path, boot, Commits(0), _never, Disk(path, 0), metrics, Alarms(metrics), None,
        asyncio.Event(),
    )  # fmt: skip


async def _followed(folder: Path, rate: int, seconds: float) -> list[Figure]:
    home = folder / "followed"
    home.mkdir()
    planned = int(seconds * COMMITS_PER_S) * max(1, rate // COMMITS_PER_S)
    with closing(History(home / "results.db", planned, varied=_prose)) as history:
        around = _around(home, history.boot)
        following = asyncio.create_task(follow(around))
        made: deque[tuple[int, float]] = deque()
        all_seen = asyncio.Event()
        watching = asyncio.create_task(_lags(around.path, made, planned, all_seen))
        began, cpu = time.monotonic(), time.process_time()
        commits = await _written(history, around, rate, seconds, made)
        wall = time.monotonic() - began
        spent = time.process_time() - cpu - sum(cpu for _, cpu in commits)
        await all_seen.wait()
        around.commits.end()
        await following
        watching.cancel()
        lags = await watching
    name, index = f"{rate} results/s", index_path(around.path)
    return [
        at_most(f"{name}: share of a core", spent / wall, round(SHARE_MAX, 3)),
        Figure(name=f"{name}: written", value=history.rows / wall, unit="rows/s"),
        Figure(name=f"{name}: lag, p50", value=percentile(lags, 0.5), unit="s"),
        at_most(f"{name}: lag, most", max(lags), LAG_S_MAX, "s"),
        Figure(name=f"{name}: index, size", value=index_bytes(index) / planned, unit="B/row"),
    ]


async def _written(
    history: History,
    around: Around,
    rate: int,
    seconds: float,
    made: deque[tuple[int, float]] | None = None,
) -> list[tuple[float, float]]:
    """Of each COMMIT, at a steady rate: its seconds, and the CPU seconds with all that it took to
    make its rows.
    """
    began, spent = time.monotonic(), []
    for n in range(int(seconds * COMMITS_PER_S)):
        spent.append(await asyncio.to_thread(_commit, history, max(1, rate // COMMITS_PER_S)))
        if made is not None:
            made.append((history.rows, time.monotonic()))
        around.commits.advance(history.rows)
        await asyncio.sleep(max(0.0, began + (n + 1) / COMMITS_PER_S - time.monotonic()))
    return spent


async def _beside(folder: Path, rate: int) -> list[Figure]:
    """What others notice of the indexer: windows with one and without take turns."""
    late: dict[bool, list[float]] = {True: [], False: []}
    commits: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as files:
        histories, arounds = {}, {}
        for is_followed in (True, False):
            home = folder / f"beside-{is_followed}"
            home.mkdir()
            history = History(home / "results.db", VOCABULARY, varied=_prose)
            histories[is_followed] = files.enter_context(closing(history))
            arounds[is_followed] = _around(home, history.boot)
        following = asyncio.create_task(follow(arounds[True]))
        for pair in range(WINDOWS + 1):
            for is_followed in (True, False) if pair % 2 else (False, True):
                lags: list[float] = []
                async with measured_lag(lags.append):
                    spent = await _written(
                        histories[is_followed], arounds[is_followed], rate, WINDOW_S
                    )
                await asyncio.sleep(SETTLE_S)  # what was written is in the index
                if pair:  # the first pair warms up
                    late[is_followed].append(percentile(lags, 0.95) * 1e3)
                    commits[is_followed].append(percentile([wall for wall, _ in spent], 0.95))
        arounds[True].commits.end()
        await following
    ratios = [a / b for a, b in zip(commits[True], commits[False], strict=True)]
    return [
        Figure(name="event loop late, p95, beside it", value=median(late[True]), unit="ms"),
        Figure(name="event loop late, p95, without it", value=median(late[False]), unit="ms"),
        Figure(name="COMMIT p95, beside it ÷ without", value=median(ratios), unit="ratio"),
    ]


async def _never(*_args: Any) -> Any:
    raise AssertionError("an index changes nothing of the database")


def _commit(history: History, rows: int) -> tuple[float, float]:
    cpu = time.thread_time()
    wall, _ = history.commit(rows)
    return wall, time.thread_time() - cpu


async def _lags(
    path: Path, made: deque[tuple[int, float]], last: int, all_seen: asyncio.Event
) -> Sequence[float]:
    """Of each commit, from its end until it was seen to be in the index. Until cancelled."""
    lags: list[float] = []
    is_attached = False
    try:
        with closing(open_reader(path)) as reader:
            while True:
                if not is_attached and index_path(path).exists():
                    file = f"file:{index_path(path)}?mode=ro"  # who may write it would make it anew
                    reader.execute(sql_of("search", "attach"), {"file": file})
                    is_attached = True
                seq = 0
                if is_attached:
                    with suppress(IndexBroken):  # it has no tables yet
                        seq = position_of(reader).seq
                while made and made[0][0] <= seq:
                    lags.append(time.monotonic() - made.popleft()[1])
                if seq >= last:
                    all_seen.set()
                await asyncio.sleep(LOOK_S)
    except asyncio.CancelledError:
        return lags
