"""SQL over many boxes gives what the same SQL gives over their rows put together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.replicating import Database

from edge_store.errors import NotFound, QueryRefused
from edge_store.fleet.centre import Centre
from edge_store.fleet.query import FleetAnswer, find_copies, query_fleet
from edge_store.fleet.search import Wanted, search_fleet
from edge_store.sqlite import open_copy


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Path]:
    """Two boxes: box-a with 2 results, box-b with 3."""
    boxes = []
    for name, results in (("box-a", 2), ("box-b", 3)):
        database = Database(tmp_path / f"{name}.db", name)
        database.write(results)
        boxes.append(database)
    yield tmp_path
    for database in boxes:
        database.close()


def ask(folder: Path, statement: str, **params: Any) -> FleetAnswer:
    return query_fleet(find_copies(folder), statement, params, rows_max=100, timeout_s=60)


def rows(folder: Path, statement: str, **params: Any) -> list[tuple[Any, ...]]:
    answer = ask(folder, statement, **params)
    assert answer.unread == ()
    return answer.result.rows


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT count(*) FROM results", [(5,)]),
        ("SELECT device_id, count(*) FROM results GROUP BY 1", [("box-a", 2), ("box-b", 3)]),
        ("SELECT device_id, count(*) FROM outputs GROUP BY 1", [("box-a", 2), ("box-b", 3)]),
        (
            "SELECT device_id, sum(choices) FROM GENERATIONS GROUP BY 1",
            [("box-a", 2), ("box-b", 3)],
        ),
        ("SELECT device_id, admitted FROM completeness ORDER BY 1", [("box-a", 2), ("box-b", 3)]),
        (
            """SELECT device_id, max(request_id = id)
            FROM sglang_inference_results JOIN results USING (device_id) GROUP BY 1""",
            [("box-a", 1), ("box-b", 1)],
        ),
        (
            """SELECT device_id, output_text
            FROM results JOIN outputs USING (device_id, seq) WHERE seq = 2 ORDER BY 1""",
            [("box-a", "answer 2"), ("box-b", "answer 2")],
        ),
        ("SELECT count(*) FROM results NATURAL JOIN outputs", [(5,)]),
        ('SELECT count("gen_ai.usage.input_tokens") FROM "v_otel"', [(5,)]),
        ("WITH x AS (SELECT 1) SELECT count(*) FROM x", [(1,)]),
    ],
)
def test_relation_is_the_union_over_boxes(
    fleet: Path, statement: str, expected: list[tuple[Any, ...]]
) -> None:
    assert rows(fleet, statement) == expected


def test_device_id_comes_first_where_a_relation_lacks_it(fleet: Path) -> None:
    answer = ask(fleet, "SELECT * FROM outputs ORDER BY device_id, seq")
    assert answer.result.columns[:2] == ("device_id", "seq")
    assert answer.result.rows[0][:4] == ("box-a", 1, 0, "answer 1")
    assert ask(fleet, "SELECT * FROM results").result.columns[:3] == ("seq", "timeline", "id")


def test_parameters_are_bound(fleet: Path) -> None:
    assert rows(fleet, "SELECT count(*) FROM results WHERE device_id = :d", d="box-b") == [(3,)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM results",
        "ATTACH 'other.db' AS other",
        "SELECT * FROM nothing",
        "SELECT 1; SELECT 2",
        "PRAGMA journal_mode = DELETE",
        "CREATE TABLE t (a)",
        "SELECT :unbound",
    ],
)
def test_statement_that_does_more_than_read_is_refused(fleet: Path, statement: str) -> None:
    with pytest.raises(QueryRefused):
        ask(fleet, statement)


def test_value_that_is_missing_or_not_used_is_named(fleet: Path) -> None:
    with pytest.raises(QueryRefused, match=r"^:ms has no value$") as caught:
        ask(fleet, "SELECT 1 FROM results WHERE seq > :ms", sm=1)
    assert caught.value.hint == "give it one: -p ms VALUE"
    assert ask(fleet, "SELECT :ms", ms=1, sm=1).result.unused == ("sm",)


def test_wrong_name_is_answered_with_the_command_of_the_fleet(fleet: Path) -> None:
    with pytest.raises(QueryRefused, match="no such table") as caught:
        ask(fleet, "SELECT * FROM nosuch")
    assert "fleet query --in DIR --live" in caught.value.hint
    assert ("completeness",) in rows(fleet, "SELECT name FROM sqlite_schema")


def test_endless_statement_is_stopped(fleet: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    with pytest.raises(QueryRefused, match="longer than"):
        query_fleet(find_copies(fleet), endless, rows_max=10, timeout_s=0.2)


def test_column_that_a_box_lacks_is_null_and_its_views_are_ours(fleet: Path) -> None:
    database = Database(fleet / "box-c.db", "box-c")
    database.write(1)
    database.connection.execute("ALTER TABLE annotations RENAME COLUMN value TO older")
    database.connection.execute("DROP VIEW v_openai")
    database.connection.execute(
        "INSERT INTO annotations (at, id, kind, older) VALUES (0, 'x', 'pin', '1')"
    )
    database.close()
    assert rows(fleet, "SELECT device_id, id, value FROM annotations") == [("box-c", "x", None)]
    assert rows(fleet, "SELECT count(*) FROM v_openai") == [(6,)]


def test_copy_that_cannot_be_read_is_named_and_the_others_answer(fleet: Path) -> None:
    (fleet / "box-c.db").write_bytes(b"no database" * 100)
    answer = ask(fleet, "SELECT count(*) FROM results")
    assert (answer.result.rows, answer.boxes) == ([(5,)], 2)
    assert [unread.path.name for unread in answer.unread] == ["box-c.db"]


def test_damaged_copy_adds_none_of_its_rows(tmp_path: Path) -> None:
    database = Database(tmp_path / "box-a.db", "box-a")
    for _ in range(20):
        database.write(20, body_bytes=3000)
    database.close()
    open_copy(tmp_path / "box-a.db").close()
    content = bytearray((tmp_path / "box-a.db").read_bytes())
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    (tmp_path / "box-a.db").write_bytes(content)
    answer = ask(tmp_path, "SELECT count(response_body) FROM requests")
    assert answer.result.rows == [(0,)]
    assert len(answer.unread) == 1


def test_folder_without_copies_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no copies"):
        find_copies(tmp_path)


def test_stray_copy_of_a_box_is_not_counted_again(fleet: Path) -> None:
    database = Database(fleet / "box-zz.db", "box-b")
    database.write(3)
    database.close()
    answer = ask(fleet, "SELECT count(*) FROM results")
    assert answer.result.rows == [(5,)]
    assert [each.error for each in answer.unread] == [
        f"{fleet}/box-zz.db is box-b's, not box-zz's: move it away"
    ]
    found = search_fleet(Centre(folder=fleet), Wanted(text="answer"), timeout_s=60)
    assert (len(found.result.rows), len(found.unread)) == (5, 1)


def test_box_that_speaks_for_another_is_not_counted(fleet: Path) -> None:
    database = Database(fleet / "box-c.db", "box-c")
    database.write(1, device_id="box-a")
    database.close()
    for statement in ("SELECT count(*) FROM results", "SELECT count(*) FROM generations"):
        answer = ask(fleet, statement)
        assert answer.result.rows == [(5,)]
        assert "holds rows of box-a, and is box-c's" in answer.unread[0].error
    found = search_fleet(Centre(folder=fleet), Wanted(text="answer"), timeout_s=60)
    assert (len(found.result.rows), len(found.unread)) == (5, 1)
