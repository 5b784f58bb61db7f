"""Finds results by what is in their prompts and answers.

With an index the newest matches are read off it, newest first, shard by shard, and no further than
there is need: so a word that is in a million results costs no more than one that is in a thousand.
Ranked are the newest ``RANKED`` matches, by BM25 with the frequencies among these; there is no rank
over all, which would have to look at all. Whole words come first; where they are fewer than asked
for, results follow that have what is asked for within words, or as it is written.

Results that are not in the index yet are read through, and so is a file without one.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from edge_store.errors import StoreError
from edge_store.result import Record
from edge_store.search.asked import (
    Node,
    Text,
    holds,
    inner_match,
    is_found_in_parts,
    leaves,
    parts_match,
    words_match,
)
from edge_store.search.file import IndexBroken, Position, is_of, position_of, reading_damaged_texts
from edge_store.search.ranking import scores
from edge_store.search.shards import shard_block
from edge_store.search.snippets import Snippet, snippet_of
from edge_store.search.sought import Sought, sought_of
from edge_store.selection import Selection
from edge_store.sql import sql, sql_of
from edge_store.sqlite import SQLITE_ERRORS, Connection, driver, translated

__all__ = ["Answer", "Found", "Place", "Wanted", "search"]

RANKED = 100
RANKED_CHARS_MAX = 4 * 2**20
FOLDED_CHARS = 16  # to fold one that is not ASCII takes as long as so many that are
UNINDEXED_MAX = 2000  # results beyond the index that are read through
TRIED_MAX = 500  # texts without it, of those that may have it within words: 10 ms of 2 KB each
STEPS_BETWEEN_CHECKS = 10_000  # SQLite virtual machine steps; about a millisecond
SEQ_MAX = 2**63 - 1


class Place(StrEnum):
    """Where to look."""

    PROMPT = "prompt"
    ANSWER = "answer"
    ALL = "all"


class Wanted(Record, frozen=True, kw_only=True):
    """``is_newest``: by time alone, without a rank."""

    text: Any  # Node
    selection: Selection = Selection()
    place: Place = Place.ALL
    limit: int = 20
    is_newest: bool = False
    timeout_s: float = 10.0


class Found(Record, frozen=True, kw_only=True):
    """One result. ``place``: of the snippet; ``score``: None without a rank."""

    seq: int
    id: str
    created_at: str
    model: str | None
    status: str
    tenant: str | None
    place: Place
    score: float | None
    snippet: Snippet


class Answer(Record, frozen=True, kw_only=True):
    """``is_out_of_time``: there may be more. ``is_cut``: there may be more that have it within
    words, as some have it as words. ``unindexed``: the newest so many results were passed over, as
    the index has not come to them.
    """

    found: tuple[Found, ...]
    has_index: bool
    is_out_of_time: bool = False
    is_cut: bool = False
    unindexed: int = 0


class Hit(NamedTuple):
    """A match, with its texts by their places."""

    seq: int
    texts: dict[Place, Text]
    raw: dict[Place, str]


class Ranked(NamedTuple):
    """A hit with what was found in it; ``score`` is None without a rank."""

    hit: Hit
    wanted: list[Sought]
    score: float | None


def search(reader: Connection, indexes: Sequence[Path], wanted: Wanted) -> Answer:
    """Look in the database that ``reader`` reads, by the first of ``indexes`` that is one of it.

    Raises:
        StoreError: the database cannot be read.
    """
    finding = Finding(reader, wanted)
    reader.set_progress_handler(finding.is_over, STEPS_BETWEEN_CHECKS)
    try:
        with reading_damaged_texts(reader), _attached(reader, indexes) as position:
            try:
                return finding.answer(position)
            except IndexBroken:  # dropped or damaged meanwhile
                finding = Finding(reader, wanted)
        with reading_damaged_texts(reader):
            return finding.answer(None)
    finally:
        reader.set_progress_handler(None, 0)


@contextmanager
def _attached(reader: Connection, indexes: Sequence[Path]) -> Iterator[Position | None]:
    """How far the first is that fits; None where there is none."""
    found = None
    for index in indexes:
        found = _attach(reader, index)
        if found is not None:
            break
    try:
        yield found
    finally:
        _detach(reader)


def _attach(reader: Connection, index: Path) -> Position | None:
    if not index.is_file():
        return None
    for mode in ("mode=ro", "immutable=1"):
        if mode == "immutable=1" and index.with_name(f"{index.name}-wal").exists():
            break  # only where nobody has it open, and we may not write beside it
        file = f"file:{quote(str(index.absolute()))}?{mode}"
        try:
            reader.execute(sql_of("search", "attach"), {"file": file})
            position = position_of(reader)
            if is_of(position, reader):
                return position
        except (*SQLITE_ERRORS, IndexBroken):
            _detach(reader)
            continue
        _detach(reader)
        break
    return None


def _detach(reader: Connection) -> None:
    try:
        reader.execute(sql_of("search", "detach"))
    except SQLITE_ERRORS:
        return  # it was not attached


class Finding:
    """One search."""

    def __init__(self, reader: Connection, wanted: Wanted) -> None:
        self._reader = reader
        self._wanted = wanted
        self._node: Node = wanted.text
        asked = leaves(wanted.text)
        self._may_be_in_parts = any(is_found_in_parts(leaf) for leaf in asked)
        self._sought = {in_parts: sought_of(asked, in_parts=in_parts) for in_parts in (False, True)}
        self._deadline = time.monotonic() + wanted.timeout_s
        self._is_out_of_time = False
        self._is_cut = False
        self._chars = 0
        self._places = (
            (Place.PROMPT, Place.ANSWER) if wanted.place is Place.ALL else (wanted.place,)
        )
        self._enough = wanted.limit if wanted.is_newest else max(wanted.limit, RANKED)
        self._whole: dict[int, Hit] = {}
        self._parts: dict[int, Hit] = {}

    def is_over(self) -> bool:
        """Whether its time is."""
        return time.monotonic() > self._deadline

    def answer(self, position: Position | None) -> Answer:
        """The best of what is found."""
        unindexed = 0
        try:
            if position is None:
                self._read_through(after=0, rows_max=SEQ_MAX)
            else:
                unindexed = self._by_index(position)
        except TimeoutError:
            self._is_out_of_time = True
        found = self._ordered(list(self._whole.values()), self._sought[False])
        if len(found) < self._wanted.limit:
            found += self._ordered(list(self._parts.values()), self._sought[True])
        found = found[: self._wanted.limit]
        if self._wanted.is_newest:
            found.sort(key=lambda each: -each.hit.seq)
        is_out_of_time, self._deadline = self._is_out_of_time, math.inf  # what is found is shown
        shown = map(self._shown, found)
        return Answer(
            found=tuple(each for each in shown if each is not None),
            has_index=position is not None,
            is_out_of_time=is_out_of_time,
            is_cut=self._is_cut,
            unindexed=unindexed,
        )

    # -- what matches

    def _by_index(self, position: Position) -> int:
        """How many of the newest were passed over."""
        newest: int = next(self._rows(sql("select_newest_searchable")))[1]
        unindexed = max(0, newest - position.seq)
        if unindexed <= UNINDEXED_MAX:
            self._read_through(after=position.seq, rows_max=UNINDEXED_MAX)
            unindexed = 0
        shards = [shard for (shard,) in self._rows(sql_of("search", "select_shards"))]
        by_words, by_parts = words_match(self._node), parts_match(self._node)
        if by_words is not None:
            if self._wanted.place is not Place.ALL:
                by_words = f"{self._wanted.place} : ({by_words})"
            self._walk("find_words", by_words, shards, position.seq, in_parts=False)
        if len(self._whole) >= self._wanted.limit:
            return unindexed
        if by_parts is not None:
            self._walk("find_trigrams", by_parts, shards, position.seq, in_parts=True)
        elif (by_inner := inner_match(self._node)) is not None:
            if by_inner != words_match(self._node):  # else that was all
                self._walk("find_words", by_inner, shards, position.seq, in_parts=True)
        elif not self._whole and self._may_be_in_parts:  # neither can tell
            self._read_through(after=0, rows_max=SEQ_MAX)
        return unindexed

    def _walk(
        self, block: str, match: str, shards: Sequence[int], upto: int, *, in_parts: bool
    ) -> None:
        into = self._parts if in_parts else self._whole
        tried = 0
        for shard in shards:
            statement = self._with_condition(shard_block(block, shard))
            values = {"match": match, "seq": upto, **self._wanted.selection.values}
            for (seq,) in self._rows(statement, values):
                if len(into) >= self._enough:
                    return
                if seq in self._whole:
                    continue
                hit = self._read(seq)
                if hit is None:
                    continue
                if not in_parts or holds(self._node, list(hit.texts.values()), in_parts=True):
                    into[seq] = hit
                    self._chars += sum(map(_cost, hit.raw.values()))
                else:
                    tried += 1
                if tried == TRIED_MAX and self._whole:  # who asks for a word has found it
                    self._is_cut = True
                    return
                if self._chars > RANKED_CHARS_MAX and len(into) >= self._wanted.limit:
                    return

    def _read(self, seq: int) -> Hit | None:
        row = next(self._rows(sql("select_searched"), {"seq": seq}), None)
        return None if row is None else self._hit(seq, *row)

    def _hit(self, seq: int, prompt: str | None, answer: str | None) -> Hit:
        both = {Place.PROMPT: prompt or "", Place.ANSWER: answer or ""}
        raw = {place: both[place] for place in self._places}
        return Hit(seq, {place: Text(text) for place, text in raw.items()}, raw)

    def _read_through(self, *, after: int, rows_max: int) -> None:
        """The texts themselves, newest first."""
        statement = self._with_condition(sql("select_searched_before"))
        values = {"after": after, **self._wanted.selection.values}
        for n, (seq, prompt, answer) in enumerate(self._rows(statement, values)):
            if n == rows_max or len(self._whole) >= self._enough:
                return
            hit = self._hit(seq, prompt, answer)
            texts = list(hit.texts.values())
            if holds(self._node, texts, in_parts=False):
                self._whole[seq] = hit
            elif len(self._parts) < self._enough and holds(self._node, texts, in_parts=True):
                self._parts[seq] = hit

    def _with_condition(self, statement: str) -> str:
        return statement.replace(":condition", self._wanted.selection.condition)

    def _rows(self, statement: str, values: dict[str, Any] | None = None) -> Iterator[Any]:
        """Raises ``TimeoutError`` when the time is over, ``IndexBroken``: the index is no good."""
        is_of_index = "search_index" in statement
        try:
            with translated("the search failed"):
                for row in self._reader.execute(statement, values or {}):
                    yield row
                    if self.is_over():
                        raise TimeoutError
        except StoreError as exc:
            code = getattr(exc.__cause__, "sqlite_errorcode", None) or 0
            if code == driver.SQLITE_INTERRUPT:
                raise TimeoutError from exc
            if is_of_index:
                raise IndexBroken(str(exc)) from exc
            raise

    # -- in which order, and what is shown of it

    def _ordered(self, hits: list[Hit], wanted: list[Sought]) -> list[Ranked]:
        hits.sort(key=lambda hit: -hit.seq)
        if self._wanted.is_newest:
            return [Ranked(hit, wanted, None) for hit in hits]
        found = scores([[text.folded for text in hit.texts.values()] for hit in hits], wanted)
        order = sorted(range(len(hits)), key=lambda n: (-found[n], -hits[n].seq))
        return [Ranked(hits[n], wanted, found[n]) for n in order]

    def _shown(self, ranked: Ranked) -> Found | None:
        hit, wanted, score = ranked
        row = next(self._rows(sql("select_found"), {"seq": hit.seq}), None)
        if row is None:  # forgotten a moment ago
            return None
        id_, created_at, model, status, tenant = row
        place = max(
            hit.raw,
            key=lambda place: (_kinds(hit.texts[place], wanted), place is Place.ANSWER),
        )
        return Found(
            seq=hit.seq,
            id=id_,
            created_at=created_at,
            model=model,
            status=status,
            tenant=tenant,
            place=place,
            score=None if score is None else round(score, 4),
            snippet=snippet_of(hit.raw[place], hit.texts[place].folded, wanted),
        )


def _cost(text: str) -> int:
    return len(text) * (1 if text.isascii() else FOLDED_CHARS)


def _kinds(text: Text, wanted: Sequence[Sought]) -> int:
    """How many of them it has."""
    return sum(any(True for _ in each.spans(text.folded)) for each in wanted)
