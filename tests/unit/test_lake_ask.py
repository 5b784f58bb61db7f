"""SQL over a lake and what the copies have beyond it gives what it gives over the copies."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.lakes import exported
from support.replicating import Database

from edge_store.errors import LakeFailed, QueryRefused
from edge_store.fleet.lake.ask import ask_lake
from edge_store.fleet.lake.store import Lake, Watermarks, watermarks
from edge_store.fleet.lake.views import VIEWS, view_columns
from edge_store.fleet.query import FleetAnswer, find_copies, query_fleet
from edge_store.recorder.deletions import Reason, delete_results

REPAIR = """INSERT INTO repairs (at, id, choice_index, output_json, json_state, repairer)
SELECT 0, id, 0, '{"a":1}', 'repaired', 'r 1' FROM results WHERE seq = 2"""
ASKED = "UPDATE outputs SET json_state = 'valid', output_json = '[1]', repairer = 'r 0'"
NOTE = """INSERT INTO annotations (at, id, kind, value)
SELECT 0, id, 'metadata', '{"late":1}' FROM results WHERE seq = 1"""


class Fleet:
    """Box-a with 4 results, of which the lake has 3; box-b with 2, of which it has all; box-c with
    1, of which it has none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = Lake(str(folder / "lake"))
        self.boxes = {}
        for name, results in (("box-a", 3), ("box-b", 2)):
            self.boxes[name] = Database(folder / f"{name}.db", name)
            self.boxes[name].write(results)
        self.boxes["box-b"].connection.execute(ASKED)
        exported(folder, self.lake, tables=("results", "outputs"))
        self.boxes["box-c"] = Database(folder / "box-c.db", "box-c")
        self.boxes["box-a"].write(1)
        self.boxes["box-c"].write(1)
        for statement in (REPAIR, NOTE):
            self.boxes["box-a"].connection.execute(statement)

    def close(self) -> None:
        for box in self.boxes.values():
            box.close()

    @property
    def copies(self) -> list[Path]:
        return sorted(self.folder.glob("*.db"))

    def ask(self, statement: str, **params: Any) -> FleetAnswer:
        answer = ask_lake(self.lake, self.copies, statement, params, rows_max=100, timeout_s=60)
        assert answer is not None
        return answer

    def live(self, statement: str, **params: Any) -> FleetAnswer:
        return query_fleet(find_copies(self.folder), statement, params, rows_max=100, timeout_s=60)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """For tests that only ask."""
    with closing(Fleet(tmp_path_factory.mktemp("fleet"))) as fleet:
        yield fleet


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Fleet]:
    with closing(Fleet(tmp_path)) as fleet:
        yield fleet


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) AS n FROM results",
        "SELECT device_id, count(*) AS n, sum(output_tokens) t FROM results GROUP BY 1 ORDER BY 1",
        "SELECT device_id, model, count(*) AS n FROM generations GROUP BY 1, 2 ORDER BY 1",
        """SELECT id, input_text, output_text, json_state, output_json, metadata, choices, hour,
        created_at, completed_at FROM generations ORDER BY device_id, seq""",
        "SELECT device_id, seq, output_text FROM outputs ORDER BY device_id, seq",
        "SELECT device_id, seq, request_body, response_body FROM bodies ORDER BY 1, 2",
        "SELECT id, digest FROM results ORDER BY id",
        "SELECT device_id, json_state, repairer FROM structured ORDER BY 1",
        "SELECT output_text FROM results JOIN outputs USING (device_id, seq) ORDER BY 1",
        "SELECT max(length(output_text)) AS n, count(DISTINCT model) AS m FROM generations",
        "SELECT count(*) AS n FROM generations WHERE json_state = 'repaired'",
        "WITH x AS (SELECT * FROM generations) SELECT count(output_text) AS n FROM x",
    ],
)
def test_answer_is_that_of_the_copies(fleet: Fleet, statement: str) -> None:
    answer, live = fleet.ask(statement), fleet.live(statement)
    assert answer.unread == ()
    assert answer.result == live.result
    assert answer.result.rows


def test_relations_begin_with_the_columns_of_the_copies(fleet: Fleet) -> None:
    for view in VIEWS:
        of = "bodies" if view == "requests" else view  # how a box keeps them is not the lake's
        live = fleet.live(f"SELECT * FROM {of}").result.columns
        assert view_columns(view)[: len(live)] == live


def test_values_are_bound_by_their_names(fleet: Fleet) -> None:
    statement = "SELECT :day::text AS d, {'a': 7} AS l, 'é :k' AS t WHERE $k = 2 -- :k"
    assert fleet.ask(statement, day="x", k=2, other=1).result.rows == [("x", '{"a": 7}', "é :k")]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM results", "kind DELETE"),
        ("CREATE TABLE t (a INT)", "kind CREATE"),
        ("ATTACH 'other.db'", "kind ATTACH"),
        ("COPY results TO 'x.csv'", "kind COPY"),
        ("EXPLAIN ANALYZE COPY results TO 'x.csv'", "kind EXPLAIN"),
        ("INSTALL httpfs", "kind LOAD"),
        ("SET memory_limit = '9GB'", "kind SET"),
        ("PRAGMA database_list", "kind"),
        ("CALL checkpoint()", "kind CALL"),
        ("SELECT * FROM read_csv('/etc/passwd')", "calls read_csv"),
        ("SELECT * FROM read_text /* x */ ('/etc/passwd')", "calls read_text"),
        ("SELECT * FROM \"READ_BLOB\"('/etc/passwd')", "calls read_blob"),
        ("SELECT * FROM '/etc/passwd'", "passwd"),
        ("SELECT * FROM query('SELECT 1')", "calls query"),
        ("SELECT * FROM arrow_scan(1, 2, 3)", "calls arrow_scan"),
        ("FROM query_table--\r('results')", "calls query_table"),
        ("FROM range(1), LATERAL (FROM \"Query_Table\"('results')) AS x", "calls query_table"),
        ("FROM query_table\u200b('results')", "query_table"),
        ("FROM query_table\ufeff('results')", "query_table"),
        ("EXPLAIN SELECT (SELECT count(*) FROM main.Glob('*'))", "calls glob"),
        ("SELECT query_table" + "/**/" * 5_000, "query_table"),
        ("SELECT * FROM fleet", "fleet"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT :unbound", "^:unbound has no value"),
        ("SELECT $unbound", "^:unbound has no value"),
        ("SELECT :unbound FROM", "syntax error"),
        ("SELECT '" + 100_000 * "x" + "'", "characters"),
    ],
)
def test_statement_that_does_more_than_read_is_refused(
    fleet: Fleet, statement: str, said: str
) -> None:
    with pytest.raises(QueryRefused, match=said):
        fleet.ask(statement)


def test_deep_statement_is_answered(fleet: Fleet) -> None:
    statement = f"SELECT {'+'.join('1' * 900)} FROM range(1)"
    assert fleet.ask(statement).result.rows == [(900,)]


def test_error_of_the_engine_does_not_pass_for_a_statement_that_writes(fleet: Fleet) -> None:
    with pytest.raises(QueryRefused, match=r"^the query failed: ") as caught:
        fleet.ask("SELECT error('x')")
    assert caught.value.hint == ""
    with pytest.raises(QueryRefused, match="refused: it is not a text in UTF-8"):
        fleet.ask("SELECT '\udcff'")


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("SELECT modle FROM generations", "generations has model"),
        ("SELECT zzzzzz FROM outputs", "outputs has device_id, seq, choice_index"),
        ("SELECT * FROM result", "the views are results, outputs, generations"),
        ("SELECT * FROM completeness", "--live"),
    ],
)
def test_wrong_name_is_answered_with_the_right_ones(
    fleet: Fleet, statement: str, hint: str
) -> None:
    with pytest.raises(QueryRefused) as refused:
        fleet.ask(statement)
    assert hint in refused.value.hint


def test_endless_statement_is_stopped(fleet: Fleet) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    with pytest.raises(QueryRefused, match="longer than"):
        ask_lake(fleet.lake, fleet.copies, endless, rows_max=1, timeout_s=0.3)


def test_statement_that_needs_too_much_memory_is_refused(fleet: Fleet) -> None:
    with pytest.raises(QueryRefused, match="memory"):
        fleet.ask("SELECT length(string_agg(repeat('x', 1000000), '')) FROM range(2000)")


def test_rows_beyond_the_limit_are_left_out(fleet: Fleet) -> None:
    answer = ask_lake(fleet.lake, fleet.copies, "SELECT * FROM range(10)", rows_max=3, timeout_s=60)
    assert answer is not None
    assert (answer.result.rows, answer.result.is_cut) == ([(0,), (1,), (2,)], True)


@pytest.mark.parametrize(
    "statement", ["DESCRIBE generations", "SUMMARIZE results", "EXPLAIN SELECT 1"]
)
def test_statement_about_statements_answers(fleet: Fleet, statement: str) -> None:
    assert fleet.ask(statement).result.rows


def test_values_are_of_the_kinds_of_sqlite(fleet: Fleet) -> None:
    statement = """SELECT NULL, true, 2::HUGEINT ** 100, 1.50::DECIMAL(9, 2), 3::DECIMAL(9, 2),
    DATE '2026-01-02', TIMESTAMPTZ '2026-01-02 03:04:05Z', '\\xFF\\x00'::BLOB, [1, NULL],
    {'a': [DATE '2026-01-02'], 'b': '\\x0A'::BLOB}, MAP {1: true}, 'inf'::DOUBLE, INTERVAL '90 s'"""
    ((*row,),) = fleet.ask(statement).result.rows
    assert row == [
        None, 1, 2.0**100, 1.5, 3, "2026-01-02", "2026-01-02T03:04:05Z", b"\xff\x00", "[1, null]",
        '{"a": ["2026-01-02"], "b": "0a"}', '{"1": true}', float("inf"), "0:01:30",
    ]  # fmt: skip


def test_copy_that_cannot_be_read_is_named_and_the_lake_answers_for_the_rest(
    changing: Fleet,
) -> None:
    changing.boxes["box-c"].close()
    (changing.folder / "box-c.db").write_bytes(b"no database" * 100)
    answer = changing.ask("SELECT count(*) FROM results")
    assert (answer.result.rows, answer.boxes) == ([(6,)], 2)
    assert [unread.path.name for unread in answer.unread] == ["box-c.db"]


def test_lake_without_tables_leaves_the_answer_to_the_copies(changing: Fleet) -> None:
    empty = Lake(str(changing.folder / "other"))
    assert ask_lake(empty, changing.copies, "SELECT 1", rows_max=1, timeout_s=1) is None


def test_row_of_two_copies_and_the_lake_is_there_once(changing: Fleet) -> None:
    """An older copy that is kept aside, and a box that was set back to before the lake's end."""
    box = changing.boxes["box-a"]
    older = changing.folder / "box-a.2026-01-01T000000Z.db"
    box.connection.execute("VACUUM INTO ?", (str(older),))
    box.connection.execute("PRAGMA foreign_keys = ON")
    box.connection.execute("DELETE FROM results WHERE seq = 3")
    box.write(1)  # its seq is 5; the lake's point, 3, is in the older copy alone, 4 in both
    seqs = changing.ask("SELECT seq FROM results WHERE device_id = 'box-a' ORDER BY seq")
    assert [seq for (seq,) in seqs.result.rows] == [1, 2, 3, 4, 5]
    assert changing.ask("SELECT count(*) FROM outputs WHERE device_id = 'box-a'").result.rows == [
        (5,)
    ]


def test_what_a_box_has_forgotten_is_not_answered(changing: Fleet) -> None:
    box = changing.boxes["box-a"]
    (name,) = box.connection.execute("SELECT id FROM results WHERE seq = 1").fetchone()
    delete_results(box.connection, [1], Reason.FORGET)
    assert changing.ask("SELECT count(*) FROM results WHERE id = :id", id=name).result.rows == [
        (0,)
    ]
    assert changing.ask("SELECT count(*) FROM outputs WHERE id = :id", id=name).result.rows == [
        (0,)
    ]
    assert changing.ask("SELECT count(*) FROM generations").result.rows == [(6,)]


def test_what_a_box_has_deleted_by_retention_stays(changing: Fleet) -> None:
    box = changing.boxes["box-a"]
    box.connection.execute("PRAGMA foreign_keys = ON")
    box.connection.execute("DELETE FROM results WHERE seq = 1")
    assert changing.ask("SELECT count(*) FROM results").result.rows == [(7,)]


def test_file_that_vanishes_from_the_lake_is_the_lakes_fault(
    changing: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_then_vacuumed(lake: Lake) -> Watermarks:
        marks = watermarks(lake)
        for file in changing.folder.glob("lake/results/**/*.parquet"):
            file.unlink()
        return marks

    monkeypatch.setattr(f"{ask_lake.__module__}.watermarks", taken_then_vacuumed)
    with pytest.raises(LakeFailed) as failed:
        changing.ask("SELECT max(id) FROM results")
    assert "ask again" in failed.value.hint


def test_rows_that_are_exported_meanwhile_are_there_once(
    changing: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_then_exported(lake: Lake) -> Watermarks:
        marks = watermarks(lake)
        exported(changing.folder, lake)
        changing.boxes["box-b"].write(1)
        return marks

    monkeypatch.setattr(f"{ask_lake.__module__}.watermarks", taken_then_exported)
    assert changing.ask("SELECT count(*), count(DISTINCT id) FROM generations").result.rows == [
        (8, 8)
    ]


def test_interrupt_ends_a_statement_at_once(fleet: Fleet) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    began = time.monotonic()
    fleet.ask("SELECT 1")
    until_it_runs = 0.5 + 3 * (time.monotonic() - began)
    press = threading.Timer(until_it_runs, signal.raise_signal, [signal.SIGINT])
    press.start()
    with pytest.raises(KeyboardInterrupt):
        fleet.ask(endless)
    press.join()


def test_copies_that_speak_for_other_boxes_are_not_counted(changing: Fleet) -> None:
    stray = changing.folder / "box-zz.db"
    changing.boxes["box-a"].connection.execute("VACUUM INTO ?", (str(stray),))
    changing.boxes["box-d"] = Database(changing.folder / "box-d.db", "box-d")
    changing.boxes["box-d"].write(1, device_id="box-a")
    answer = changing.ask("SELECT count(*) FROM results")
    assert answer.result.rows == [(7,)]
    assert [each.path.stem for each in answer.unread] == ["box-d", "box-zz"]
