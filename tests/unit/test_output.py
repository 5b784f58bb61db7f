"""Every format of rows, to the byte, and what a terminal shows of them."""

import io
import json
import os
import shutil
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.records import make_result, new_database
from support.terminal import on_terminal

from edge_store.cli.output import write_rows
from edge_store.cli.query import query
from edge_store.query import QueryResult, answering
from edge_store.result import Output, Status
from edge_store.rows import insert_rows, to_row
from edge_store.sqlite import open_reader

GOLDEN = Path(__file__).parents[1] / "golden" / "query"
TEXTS = (
    "plain", "漢字 and 한국어, 👨‍👩‍👧 and 👍🏽",
    'a "quoted", and\tparted\nsecond line', "", "| bar \x1b[31m",
    "سلام and שלום", '{"a": [1, 2.5, {"b": null}], "s": "\\ud800"}',
)  # fmt: skip
ENDLESS = "with recursive n(i) as (values (1) union all select i + 1 from n)"
STATEMENT = """
select r.seq, r.status, o.output_text as text, r.latency_ms,
case seq when 2 then x'00ff' end as blob,
case seq when 1 then 9223372036854775807 when 3 then 1e308 when 4 then 9e999 end as number
from results as r join outputs as o using (seq) order by seq
"""
FORMATS = {
    "nl": ["--nl"],
    "arrays": ["--nl", "--arrays"],
    "json": ["--json"],
    "json-arrays": ["--json", "--arrays"],
    "json-cols": ["--json-cols"],
    "csv": ["--csv"],
    "csv-no-headers": ["--csv", "--no-headers"],
    "tsv": ["--tsv"],
    "raw": ["--raw", "text"],
    "table": ["--table"],
    "table-no-headers": ["--table", "--no-headers"],
    "vertical": ["--vertical"],
    **{f"fmt-{name}": ["--fmt", name] for name in ("github", "psql", "html", "latex", "rst")},
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("output") / "results.db"
    connection, _ = new_database(path)
    results = [
        make_result(
            number,
            latency_ms=number * 1.5,
            status=Status.FAILED if number == 2 else Status.COMPLETED,
            outputs=(Output(choice_index=0, output_text=text),),
        )
        for number, text in enumerate(TEXTS, 1)
    ]
    insert_rows(connection, [to_row(seq, "t", each) for seq, each in enumerate(results, 1)])
    connection.close()
    return path


def ask(database: Path, *arguments: str) -> Result:
    return CliRunner().invoke(query, [*arguments, "--db", str(database)])


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_as_it_was_reviewed(database: Path, name: str) -> None:
    done = ask(database, STATEMENT, *FORMATS[name])
    assert (done.exit_code, done.stderr) == (0, "")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("EDGE_STORE_TEST_GOLDEN") == "write":
        golden.write_bytes(done.stdout_bytes)
    assert done.stdout_bytes == golden.read_bytes()


def test_parquet_keeps_types_and_values(database: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    done = ask(database, STATEMENT.replace("9223372036854775807", "1.5"), "--parquet", str(file))
    assert (done.exit_code, done.stdout) == (0, "")
    table = parquet.read_table(file)
    assert [str(kind) for kind in table.schema.types] == [
        "int64", "string", "string", "double", "binary", "double",
    ]  # fmt: skip
    assert tuple(table["text"].to_pylist()) == TEXTS
    assert table["blob"].to_pylist()[:3] == [None, b"\x00\xff", None]
    assert table["number"].to_pylist()[:4] == [1.5, None, 1e308, float("inf")]


def test_parquet_of_a_column_of_two_types_is_refused_and_leaves_no_file(
    database: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow.parquet")
    statement = "select 1 as x union all select 'a'"
    done = ask(database, statement, "--parquet", str(tmp_path / "x.parquet"))
    assert "column x has values of several types" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_raw_blob_is_its_bytes(database: Path) -> None:
    assert ask(database, "select x'00ff0a' as b", "--raw", "b").stdout_bytes == b"\x00\xff\x0a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--raw", "a"], "give one of"),
        (["--csv", "--json"], "give one of --csv, --json"),
        (["--table", "--nl", "--table"], "give one of --table, --nl"),
        (["--fmt", "psql", "--parquet", "x"], "give one of"),
        (["--csv", "--arrays"], "--arrays goes with"),
        (["--table", "--json-cols"], "--json-cols goes with"),
        (["--raw", "b"], "it has a"),
        (["--fmt", "nosuch"], "nosuch"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    database: Path, options: list[str], message: str
) -> None:
    done = ask(database, "select 1 as a", *options)
    assert (done.exit_code, message in done.stderr, done.stdout) == (2, True, "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    size = os.terminal_size((50, 40))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)
    return Terminal()


def shown_width(line: str) -> int:
    return sum(2 if "\u2e80" <= each <= "\uffdc" else 1 for each in line)


def test_a_table_fits_the_terminal_whatever_is_in_it(
    narrow: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = tuple(f"a_column_of_a_long_name_{n}" for n in range(9))
    rows = [tuple("漢字仮名" * 9 for _ in columns), tuple("prose of many words" for _ in columns)]
    write_rows(QueryResult(columns=columns, rows=rows, is_cut=False), "table", narrow)
    lines = narrow.getvalue().splitlines()
    assert len(lines) == 4
    assert max(map(shown_width, lines)) <= 50
    assert "…" in lines[2]
    assert "more columns do not fit: --vertical" in capsys.readouterr().err


def test_what_tells_rows_apart_is_kept_whole_and_the_last_columns_are_left_out(
    narrow: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("hour", "id", "said", "not completed", "state", "more")
    row = ("2026-11-30T04:00:00Z", "01a22acd-2784", "words " * 9, 1, "completed", "completed")
    write_rows(QueryResult(columns=columns, rows=[row], is_cut=False), "table", narrow)
    assert narrow.getvalue().splitlines()[2].split("  ") == [*row[:2], "words words …"]
    assert "3 more columns do not fit" in capsys.readouterr().err


def test_columns_of_wide_characters_stand_under_each_other() -> None:
    stream = io.StringIO()
    rows = [("漢字", 1), ("abcd", 2), ("한국", 3)]
    write_rows(QueryResult(columns=("t", "n"), rows=rows, is_cut=False), "table", stream)
    places = {shown_width(line[: line.rindex(line[-1])]) for line in stream.getvalue().splitlines()}
    assert places == {6}


@pytest.mark.parametrize("fmt", ["table", "vertical", "csv", "tsv", "nl", "json"])
def test_no_stored_text_steers_the_terminal(narrow: Terminal, fmt: str) -> None:
    text = "\x1b]0;title\x07 \x9b31m \x7f \u202e evil\r"
    write_rows(QueryResult(columns=("t",), rows=[(text,)], is_cut=False), fmt, narrow)
    assert not set(narrow.getvalue()) & set("\x1b\x07\x9b\x7f\u202e\r")


def on_screen(database: Path, rows: int, pager: str) -> str:
    command = [sys.executable, "-m", "edge_store", "query", "--db", str(database),
               f"{ENDLESS} select i from n limit {rows}"]  # fmt: skip
    code, shown = on_terminal(command, {**os.environ, "PAGER": pager, "LINES": "20"})
    assert code == 0, shown
    return shown


def test_only_more_than_a_screen_goes_to_the_pager(database: Path) -> None:
    pager = "sed s/^/paged:/"
    assert "paged:" not in on_screen(database, 17, pager)  # and two lines of header, and the prompt
    assert on_screen(database, 18, pager).count("paged:") == 20


def test_a_pager_that_is_closed_ends_the_query_quietly(database: Path) -> None:
    shown = on_screen(database, 9_999, "head -n 3")
    assert len(shown.splitlines()) == 3


def test_rows_are_streamed_and_not_held(database: Path) -> None:
    with (
        Path(os.devnull).open("w") as sink,
        closing(open_reader(database)) as connection,
        answering(
            connection, f"{ENDLESS} select i, 'a text' as t from n", rows_max=20_000, timeout_s=60
        ) as answer,
    ):
        tracemalloc.start()
        try:
            for fmt in ("nl", "csv", "json"):
                write_rows(answer, fmt, sink)
                assert (answer.count, answer.is_cut) == (20_000, True)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 1_000_000  # 20 000 rows are 3 MB as tuples


def test_json_columns_are_json_on_one_line(database: Path) -> None:
    done = ask(database, "select '{\"a\":\n [1,\r\n2]}' as j, '[1' as k, 'x' as t", "--json-cols")
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {"j": {"a": [1, 2]}, "k": "[1", "t": "x"}
