"""A database with texts to find, and its search index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.records import make_result, new_database

from edge_store.result import Content, Output
from edge_store.rows import insert_rows, to_row
from edge_store.search.asked import parse
from edge_store.search.cleaning import clean, empty
from edge_store.search.file import IndexBroken, open_index
from edge_store.search.find import Answer, Wanted, search
from edge_store.search.index import step
from edge_store.sqlite import open_reader

__all__ = ["Searched", "phrase"]


def phrase(text: str) -> str:
    """Asks for just that."""
    return '"' + text.replace('"', '""') + '"'


class Searched:
    """Written, indexed and asked by one thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.db"
        self.index_path = folder / "search.db"
        self.writer, self.boot = new_database(self.path)
        self.reader = open_reader(self.path)
        self.index = open_index(self.index_path, self.reader)
        self.newest = 0

    def add(self, prompt: str, answer: str = "", **changes: Any) -> int:
        """Store a result. Returns its seq."""
        self.newest += 1
        fields: dict[str, Any] = {
            "outputs": (Output(choice_index=0, output_text=answer, finish_reason="stop"),),
            "content": Content(input_text=prompt, request_body=b"{}", response_body=b"{}"),
        }
        result = make_result(self.newest, self.boot.boot_id, **{**fields, **changes})
        insert_rows(self.writer, [to_row(self.newest, self.boot.timeline, result)])
        return self.newest

    def follow(self) -> None:
        """Bring the index up to date, and clean it; a broken one is made anew."""
        try:
            while step(self.index, self.reader, self.newest).is_more:
                pass
        except IndexBroken:
            self.reopen()
            self.follow()
        while clean(self.index, self.reader):
            pass
        empty(self.index)

    def reopen(self) -> None:
        """As the next daemon does."""
        self.index.close()
        self.index = open_index(self.index_path, self.reader)

    def ask(self, text: str, *, by_index: bool = True, **wanted: Any) -> Answer:
        """Search, by the index or through the texts."""
        reader = open_reader(self.path)
        try:
            indexes = [self.index_path] if by_index else []
            return search(reader, indexes, Wanted(text=parse(text), **wanted))
        finally:
            reader.close()

    def found(self, text: str, **wanted: Any) -> Sequence[int]:
        """The seqs, in order. By the index and without it the same ones."""
        answer = self.ask(text, **wanted)
        seqs = [each.seq for each in answer.found]
        through = self.ask(text, by_index=False, **wanted)
        assert answer.has_index
        assert not through.has_index
        assert seqs == [each.seq for each in through.found]
        return seqs

    def close(self) -> None:
        for connection in (self.index, self.reader, self.writer):
            connection.close()
