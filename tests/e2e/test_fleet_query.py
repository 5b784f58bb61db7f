"""``fleet query``, ``stats``, ``search`` as an operator runs them: lake and copies say the same."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.replicating import Database

from edge_store.cli.fleet import fleet as command
from edge_store.errors import NotFound, QueryRefused
from edge_store.result import JsonState, Output

STANDARD = [
    """select device_id, count(*) as results, sum(output_tokens) as tokens from results
    group by 1 order by 1""",
    """select model, status, count(*) as n, min(latency_ms) as fastest, max(latency_ms) as slowest
    from generations group by 1, 2 order by 1, 2""",
    """select substr(created_at, 1, 10) as day, count(*) as n from generations
    group by 1 order by 1""",
    """select device_id, seq, output_text, json_state, output_json from generations
    where json_state <> 'text' order by device_id, seq""",
    "select json_state, count(*) as n from structured group by 1 order by 1",
    """select r.device_id, count(*) as n from results as r join outputs as o
    on o.device_id = r.device_id and o.seq = r.seq group by 1 order by 1""",
    """select g.device_id, g.input_text, q.request_body from generations as g
    join requests as q on q.device_id = g.device_id and q.seq = g.seq order by 1, g.seq""",
]
TABLE = """\
n  t     nothing  b          l
-  ----  -------  ---------  ---------
3  é 😀           <1 bytes>  [1, null]
"""
TOML = """lake = "lake"

[queries]
slow = "select device_id, seq from results where latency_ms > :ms order by device_id, seq"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two boxes and a lake; each box has gone on since the export, and a third has come."""
    folder = tmp_path_factory.mktemp("centre")
    (folder / "fleet.toml").write_text(TOML)
    with ExitStack() as boxes:
        found = {}
        for number, name in enumerate(("box-a", "box-b", "box-c")):
            found[name] = boxes.enter_context(closing(Database(folder / f"{name}.db", name)))
            write(found[name], number)
            if name == "box-b":
                done = subprocess.run(
                    [sys.executable, "-m", "edge_store", "fleet", "export", "--in", str(folder),
                     "--lake", str(folder / "lake")],
                    capture_output=True, text=True, timeout=120, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
        write(found["box-a"], 7)
        yield folder


def write(box: Database, number: int) -> None:
    box.write(2, latency_ms=10.0 + number, created_at=1_760_000_000_000 + number * 86_400_000)
    output = Output(
        choice_index=0, output_text='{"é": "\N{GRINNING FACE}"}', finish_reason="stop",
        output_json='{"é": "\N{GRINNING FACE}"}', json_state=JsonState.VALID,
    )  # fmt: skip
    box.write(1, outputs=(output,), latency_ms=1000.0)


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--in", str(folder)])


@pytest.mark.parametrize("statement", STANDARD)
def test_lake_and_copies_answer_alike(folder: Path, statement: str) -> None:
    answer = run(folder, "query", statement, "--csv")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert answer.stdout == run(folder, "query", statement, "--csv", "--live").stdout
    assert answer.stdout.count("\n") > 1


@pytest.mark.parametrize("by", ["device", "model", "day", "tenant"])
def test_lake_and_copies_sum_up_alike(folder: Path, by: str) -> None:
    answer = run(folder, "stats", "--by", by, "--csv")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert answer.stdout == run(folder, "stats", "--by", by, "--csv", "--live").stdout
    assert answer.stdout.count("\n") > 1


def test_lake_and_copies_find_alike(folder: Path) -> None:
    answer = run(folder, "search", "ANSWER 1", "--device", "box-a")
    assert json.loads(answer.stdout.splitlines()[0])["snippet"] == "answer 1"
    assert answer.stdout == run(folder, "search", "ANSWER 1", "--device", "box-a", "--live").stdout


@pytest.mark.parametrize(
    ("fmt", "golden"),
    [
        ("--csv", 'n,t,nothing,b,l\n3,é 😀,,/w==,"[1, null]"\n'),
        ("--nl", '{"n":3,"t":"é 😀","nothing":null,"b":"/w==","l":"[1, null]"}\n'),
        ("--table", TABLE),
    ],
)  # fmt: skip
def test_formats_are_those_of_a_box(folder: Path, fmt: str, golden: str) -> None:
    statement = "select count(distinct device_id) as n, 'é 😀' as t, null as nothing, "
    statement += "'\\xFF'::blob as b, [1, null] as l from results"
    assert run(folder, "query", statement, fmt).stdout == golden


def test_saved_query_takes_values(folder: Path) -> None:
    answer = run(folder, "query", "@slow", "-p", "ms", "500", "--csv")
    assert answer.stdout == "device_id,seq\nbox-a,3\nbox-a,6\nbox-b,3\nbox-c,3\n"
    assert isinstance(run(folder, "query", "@fast").exception, NotFound)


def test_rows_beyond_the_limit_are_told_of(folder: Path) -> None:
    answer = run(folder, "query", "select seq from results order by seq", "--max-rows", "2")
    assert answer.stdout == '{"seq":1}\n{"seq":1}\n'
    assert "only the first 2 rows" in answer.stderr


def test_what_would_write_is_refused(folder: Path) -> None:
    refused = run(folder, "query", f"copy results to '{folder}/x.csv'")
    assert isinstance(refused.exception, QueryRefused)
    assert not (folder / "x.csv").exists()


def test_lake_or_live_not_both(folder: Path) -> None:
    both = run(folder, "query", "select 1", "--lake", "x", "--live")
    assert (both.exit_code, "not both" in both.stderr) == (2, True)


def test_copy_that_cannot_be_read_makes_exit_code_1(folder: Path) -> None:
    bad = folder / "box-d.db"
    bad.write_bytes(b"no database" * 100)
    try:
        for arguments in (
            ["query", "select count(*) as n from results"],
            ["stats"],
            ["search", "x"],
        ):
            answer = run(folder, *arguments)
            assert (answer.exit_code, "box-d.db" in answer.stderr) == (1, True)
            assert answer.stdout or arguments == ["search", "x"]
    finally:
        bad.unlink()


def test_lake_answers_without_copies(folder: Path, tmp_path: Path) -> None:
    lake = ["--lake", str(folder / "lake")]
    counted = run(tmp_path, "query", "select count(*) as n from results", *lake)
    assert (counted.exit_code, counted.stdout) == (0, '{"n":6}\n')
    summed = json.loads(run(tmp_path, "stats", *lake).stdout)
    assert (summed["requests"], summed["admitted"]) == (6, None)
    found = run(tmp_path, "search", "grinning", *lake), run(tmp_path, "search", "answer", *lake)
    assert [each.stdout.count("\n") for each in found] == [0, 4]
