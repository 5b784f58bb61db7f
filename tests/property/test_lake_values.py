"""Any value that a box can hold comes out of a lake as it came out of the copies."""

import math
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.lakes import exported
from support.replicating import Database

from edge_store.errors import QueryRefused
from edge_store.fleet.lake.ask import ask_lake
from edge_store.fleet.lake.session import Session
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.query import find_copies, query_fleet
from edge_store.result import Content, Output

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", "\0", "a\0b", "😀é\u202e", "\ufeff", "\ud7ff\ue000", "1e308", "'; --", '{"a": "\\ud800"}']
)
NUMBER = st.integers(0, 2**63 - 1) | st.sampled_from([0, 2**53 + 1, 2**63 - 1])
REAL = st.floats(allow_nan=False) | st.sampled_from([1e308, -1e308, 5e-324, -0.0, math.inf])
STATEMENT = """SELECT
    seq, latency_ms, ttft_ms, input_tokens, user_id, metadata, input_text, output_text
FROM generations ORDER BY seq"""


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT, NUMBER, REAL, st.binary(max_size=40)), min_size=2, max_size=8)
)
def test_values_of_a_lake_are_those_of_the_copies(
    rows: list[tuple[str, str, int, float, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake(str(folder / "lake"))
        with closing(Database(folder / "box-a.db", "box-a")) as box:
            for number, (prompt, answer, count, real, body) in enumerate(rows):
                if number == len(rows) // 2:
                    exported(folder, lake, tables=("results", "outputs"))
                output = Output(choice_index=0, output_text=answer, finish_reason="stop")
                content = Content(input_text=prompt, request_body=body, response_body=body[::-1])
                box.write(
                    1, outputs=(output,), content=content, user_id=answer, input_tokens=count,
                    latency_ms=real, ttft_ms=-real, metadata=None,
                )  # fmt: skip
            copies = find_copies(folder)
            for statement in (STATEMENT, "SELECT * FROM bodies ORDER BY seq"):
                live = query_fleet(copies, statement, rows_max=100, timeout_s=60).result
                answer_ = ask_lake(lake, copies, statement, rows_max=100, timeout_s=60)
                assert answer_ is not None
                names = answer_.result.columns[: len(live.columns)]
                assert names == live.columns
                assert [row[: len(names)] for row in answer_.result.rows] == live.rows


@settings(max_examples=20, deadline=None)
@given(TEXT, st.integers(-(2**63), 2**63 - 1), REAL)
def test_bound_values_come_back_as_they_went(text: str, number: int, real: float) -> None:
    with Session() as session:
        session.lock()
        given_ = {"text": text, "n": number, "r": real}
        found = session.run("SELECT :text, :n, :r, 'é:n'", given_, rows_max=1, timeout_s=60)
    assert found.rows == [(text, number, real, "é:n")]


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=60))
def test_no_statement_does_anything_but_answer_or_be_refused(text: str) -> None:
    with Session() as session:
        session.lock()
        for statement in (text, f"SELECT {text}"):
            with suppress(QueryRefused):
                session.run(statement, {"a": 1}, rows_max=10, timeout_s=60)
