"""What a statement is asked of: the chosen results, several files, a name for it; and the hints."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.records import make_result, new_database

from edge_store.cli.query import query
from edge_store.errors import InvalidRequest, NotFound, QueryRefused
from edge_store.ids import DeviceId
from edge_store.query import answering, run_query
from edge_store.result import Output, Status
from edge_store.rows import insert_rows, to_row
from edge_store.saved import (
    RemoveQuery,
    SaveQuery,
    named_query,
    remove_query,
    save_query,
    saved_queries,
)
from edge_store.sqlite import open_reader, open_writer

HOUR_MS = 3_600_000
FIRST_AT = 1_760_000_000_000  # 2025-10-09T08:53:20Z
RESULTS = 10


def make(path: Path, device_id: str) -> Path:
    """Ten results, one an hour; the odd ones failed; the models are m0, m1 and m2 in turn."""
    connection, _ = new_database(path, DeviceId(device_id))
    results = [
        make_result(
            n,
            device_id=DeviceId(device_id),
            created_at=FIRST_AT + n * HOUR_MS,
            status=Status.FAILED if n % 2 else Status.COMPLETED,
            response_model=f"m{n % 3}",
            outputs=(
                Output(choice_index=0, output_text="a"),
                Output(choice_index=1, output_text="b"),
            ),
        )
        for n in range(RESULTS)
    ]
    insert_rows(connection, [to_row(seq, "t", each) for seq, each in enumerate(results, 1)])
    connection.close()
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("asking")
    return [make(folder / f"{name}.db", f"box-{name}") for name in "ab"]


def ask(*arguments: str | Path) -> Result:
    return CliRunner().invoke(query, [*map(str, arguments), "--csv", "--no-headers"])


def counted(files: list[Path], statement: str, *options: str) -> str:
    done = ask(statement, "--db", files[0], *options)
    assert (done.exit_code, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("statement", "options", "answer"),
    [
        ("select count(*) from results", [], "10"),
        ("select count(*) from results", ["--status", "failed"], "5"),
        ("select count(*) from results", ["--model", "m0"], "4"),
        ("select count(*) from results", ["--model", "m0' or 1 --"], "0"),
        ("select count(*) from results", ["--since", "2025-10-09T10:00Z"], "8"),
        ("select count(*) from results", ["--until", "2025-10-09T10:00Z"], "2"),
        ("select count(*) from results", ["--model", "m0", "--status", "failed"], "2"),
        ("select count(*) from generations", ["--status", "failed"], "5"),
        ("select count(*) from v_openai", ["--status", "failed"], "5"),
        ("select count(*) from sglang_inference_results", ["--status", "failed"], "5"),
        ("select count(*) from outputs", ["--status", "failed"], "10"),
        ("select count(*) from requests", ["--status", "failed"], "5"),
        ("select count(*) from results join outputs using (seq)", ["--status", "failed"], "10"),
        ("select sum(requests) from usage_by_hour", ["--status", "failed"], "5"),
        ("select count(*) from main.results", ["--status", "failed"], "10"),
        ("select sum(completed) from completeness_by_day", ["--status", "failed"], "5"),
    ],
)
def test_a_selection_narrows_results_and_what_belongs_to_them(
    files: list[Path], statement: str, options: list[str], answer: str
) -> None:
    assert counted(files, statement, *options) == answer


def test_a_selection_lets_an_index_be_used(files: list[Path]) -> None:
    statement = "select output_text from generations where id = 'x'"
    done = CliRunner().invoke(
        query, [statement, "--explain", "--status", "failed", "--db", str(files[0])]
    )
    assert "SEARCH r USING INDEX" in done.stdout
    assert "SCAN" not in done.stdout


def test_a_narrowed_connection_still_refuses_to_write(files: list[Path]) -> None:
    done = ask("create temp table t (a)", "--db", files[0], "--status", "failed")
    assert isinstance(done.exception, QueryRefused)


def test_several_files_are_asked_as_one(files: list[Path]) -> None:
    both = ["--db", str(files[0]), "--db", str(files[1])]
    statement = "select device_id, count(*), count(distinct id) from {} group by 1 order by 1"
    for relation in ("results", "generations"):
        done = ask(statement.format(relation), *both, "--status", "failed")
        assert done.stdout.split() == ["box-a,5,5", "box-b,5,5"]
    done = ask("select device_id, count(*) from outputs group by 1", *both, "--model", "m1")
    assert done.stdout.split() == ["box-a,6", "box-b,6"]


@pytest.mark.parametrize("second", ["a", "absent"])
def test_a_file_that_cannot_be_counted_is_an_error_and_no_answer(
    files: list[Path], second: str
) -> None:
    other = files[0].with_name(f"{second}.db")
    done = ask("select count(*) from results", "--db", files[0], "--db", other)
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(other) in f"{done.stderr}{done.exception}"


def test_sql_is_read_from_standard_input(files: list[Path]) -> None:
    done = CliRunner().invoke(query, ["-", "--db", str(files[0]), "--nl"], input="select 1 as a\n")
    assert done.stdout == '{"a":1}\n'


def test_fail_empty_exits_3_only_without_rows(files: list[Path]) -> None:
    assert ask("select 1 where 0", "--db", files[0], "--fail-empty").exit_code == 3
    assert ask("select 1 where 0", "--db", files[0]).exit_code == 0
    assert ask("select 1", "--db", files[0], "--fail-empty").exit_code == 0


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("select statu from results", "did you mean status, of results?"),
        (
            "select r.out_text from results r join outputs o",
            "did you mean output_text, of outputs?",
        ),
        ("select zzzzzz from device", "device has only, device_id"),
        ("select * from generation", "did you mean generations? the views: boot_extents, generat"),
        ("select * from zzzzzz", "the views: boot_extents, generations"),
        ("select modell from results", "did you mean request_model, of results?"),
        ("selec 1", "did you mean select?"),
        ("select * form results", "did you mean from?"),
        ("generation", 'to see all of generations: "select * from generations"'),
        ("zzzzzz", "SQL begins with select; a saved query is asked as @zzzzzz"),
        ("select (1", "not closed"),
        ("select 'failed", "not closed"),
        ("select strtime('%Y')", "did you mean strftime()?"),
        ("select zzzzzz()", "pragma_function_list"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(
    files: list[Path], statement: str, hint: str
) -> None:
    done = ask(statement, "--db", files[0])
    assert isinstance(done.exception, QueryRefused)
    assert hint in done.exception.hint


def test_where_sqlite_says_it_all_there_is_no_hint(files: list[Path]) -> None:
    done = ask("select seq from results join outputs", "--db", files[0])
    assert isinstance(done.exception, QueryRefused)
    assert (str(done.exception), done.exception.hint) == (
        "the query failed: ambiguous column name: seq",
        "",
    )


def test_who_takes_the_rows_slowly_does_not_use_up_the_time(files: list[Path]) -> None:
    statement = "with recursive n(i) as (values (1) union all select i + 1 from n) select i from n"
    with (
        closing(open_reader(files[0])) as reader,
        answering(reader, statement, rows_max=1_000, timeout_s=1) as answer,
    ):
        taken = 0
        for batch in answer.batches():
            taken += len(batch)
            time.sleep(0.3)  # the reader's own: more than the limit in all
        assert (taken, answer.is_cut) == (1_000, True)


def test_rows_of_a_query_that_is_too_slow_are_refused_on_the_way(files: list[Path]) -> None:
    statement = (
        "with recursive n(i) as (values (1) union all select i + 1 from n) "
        "select i from n where i < 3 or i > 1000000000"
    )
    with closing(open_reader(files[0])) as reader, pytest.raises(QueryRefused, match="longer than"):
        run_query(reader, statement, rows_max=10, timeout_s=0.1)


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    connection, _ = new_database(tmp_path / "saved.db")
    connection.close()
    return tmp_path / "saved.db"


def test_a_saved_query_is_found_replaced_and_removed(writer: Path) -> None:
    with closing(open_writer(writer)) as connection:
        assert save_query(connection, SaveQuery(name="slow", sql="select 1")) is False
        assert named_query("slow", {}, connection) == "select 1"
        with pytest.raises(InvalidRequest, match="is another query: select 1"):
            save_query(connection, SaveQuery(name="slow", sql="select 2"))
        assert save_query(connection, SaveQuery(name="slow", sql="select 2", replaces=True)) is True
        assert [(each.name, each.sql) for each in saved_queries(connection)] == [
            ("slow", "select 2")
        ]
        assert named_query("slow", {"slow": "select 3"}, connection) == "select 3"
        with pytest.raises(NotFound) as absent:
            named_query("slwo", {}, connection)
        assert absent.value.hint == "did you mean @slow?"
        assert remove_query(connection, RemoveQuery(name="slow")) is True
        assert remove_query(connection, RemoveQuery(name="slow")) is False


def test_a_file_older_than_saved_queries_has_none(writer: Path) -> None:
    with closing(open_writer(writer)) as connection:
        connection.execute("DROP TABLE queries")
        assert saved_queries(connection) == []


def test_query_takes_the_newest_results_and_their_selection(files: list[Path]) -> None:
    done = ask("--db", files[0], "--status", "failed", "--limit", "2")
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["10", "8"]


def test_query_loads_neither_the_server_nor_the_schema() -> None:
    code = (
        "import sys, edge_store.cli.query, edge_store.query, edge_store.nearest; "
        "print({'asyncio', 'starlette', 'structlog', 'sqlite_utils', 'tabulate', 'rich'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_rows_that_nobody_takes_hold_no_checkpoint_up_for_ever(tmp_path: Path) -> None:
    path = make(tmp_path / "results.db", "box-a")
    many = "WITH c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) SELECT * FROM c"
    program = "from edge_store.cli import interrupt, main\ninterrupt.PAUSE_S_MAX = 0.2\nmain()\n"
    command = [sys.executable, "-c", program, "query", f"{many}, results", "--db", str(path)]
    with (
        closing(open_writer(path)) as writer,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking,
    ):
        assert asking.stdout is not None
        assert asking.stderr is not None
        assert asking.stdout.read(1) == b"{"  # and no more
        writer.execute("PRAGMA busy_timeout = 60000")
        writer.execute("CREATE TABLE later (a)")
        (is_busy, *_) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not is_busy, "the checkpoint has waited for the query to be given up"
        assert "nobody has taken its rows for 0.2 s" in asking.stderr.readline().decode()
        assert asking.wait(60) == 1
