"""A file that an older edge-store wrote, of before the view `bodies`, is read as it is."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from support.records import make_result, new_database
from support.retaining import Box
from support.soak.faults import undo_newest_migration

from edge_store.archive.loading import restore, together
from edge_store.chain import verify_chain
from edge_store.fleet.relations import open_compatible, shadowed
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Content, Output, Result
from edge_store.rows import load_recorded
from edge_store.schema import migrate
from edge_store.selection import Selection
from edge_store.shadows import narrowed
from edge_store.sql import sql
from edge_store.sqlite import driver, open_copy, open_reader, open_writer

TEXT = "a long answer, of which the file has one copy. " * 3
BODY = msgspec.json.encode({"choices": [{"message": {"content": TEXT}}]})


@pytest.fixture(params=["older", "newest"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    connection, boot = new_database(tmp_path / "results.db")
    results = [result(boot.boot_id, number) for number in (1, 2)]
    write_batch(connection, boot, read_head(connection), 2, results)
    if request.param == "older":
        assert undo_newest_migration(connection)
        assert connection.execute("SELECT DISTINCT response_body FROM requests").fetchall() == [
            (BODY,)
        ]
    connection.close()
    return tmp_path / "results.db"


def result(boot_id: str, number: int) -> Result:
    return make_result(
        number,
        boot_id,
        response_model=f"model-{number}",
        outputs=(Output(choice_index=0, output_text=TEXT),),
        content=Content(input_text="q", request_body=b"{}", response_body=BODY),
    )


def test_its_bodies_are_whole(file: Path) -> None:
    with closing(open_reader(file)) as reader:
        cursor = reader.execute("SELECT * FROM results")
        assert [each.result.content.response_body for each in load_recorded(reader, cursor)] == [
            BODY,
            BODY,
        ]
        assert verify_chain(reader).faults == ()
        assert reader.execute(sql("select_export_bodies"), {"seq": 2}).fetchone() == (b"{}", BODY)


def test_its_copy_that_may_be_written_is_read_so_and_migrated(file: Path) -> None:
    with closing(open_copy(file)) as copy:
        assert verify_chain(copy).faults == ()
        migrate(copy)
        assert verify_chain(copy).faults == ()
        assert copy.execute("SELECT DISTINCT response_body FROM bodies").fetchall() == [(BODY,)]


def test_it_is_read_as_if_it_were_of_this_schema(file: Path) -> None:
    with open_compatible(file) as reader:
        found = reader.execute("SELECT response_body FROM bodies UNION SELECT NULL FROM sinks")
        assert found.fetchall() == [(BODY,)]
    with closing(open_reader(file)) as reader:
        reader.execute("PRAGMA query_only = 0")
        for _ in range(2):
            with shadowed(reader, "main", Selection(model="model-1"), "bodies"):
                assert reader.execute("SELECT seq FROM bodies").fetchall() == [(1,)]
            assert reader.execute("SELECT seq FROM bodies").fetchall() == [(1,), (2,)]


def test_who_read_it_before_it_was_migrated_reads_no_body_without_its_text(tmp_path: Path) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    assert undo_newest_migration(connection)
    with closing(open_reader(tmp_path / "results.db")) as reader:
        assert reader.execute("SELECT * FROM bodies").fetchall() == []
        migrate(connection)
        write_batch(connection, boot, read_head(connection), 1, [result(boot.boot_id, 1)])
        with pytest.raises(driver.OperationalError, match="expected 4 columns for 'bodies'"):
            reader.execute("SELECT response_body FROM bodies").fetchall()
        (recorded,) = load_recorded(reader, reader.execute("SELECT * FROM results"))
        assert recorded.result.content.response_body == BODY
    connection.close()


@pytest.mark.parametrize("place", [-1, -(2**40), 0, 1, 2**40])
def test_a_place_that_was_changed_is_found_by_both_checks(file: Path, place: int) -> None:
    with closing(open_writer(file)) as connection:
        migrate(connection)
        connection.execute("UPDATE requests SET output_at = ?, response_body = x'7b7d'", (place,))
        read = connection.execute("SELECT response_body FROM bodies WHERE seq = 1").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    check = (
        "import sys; from pathlib import Path; from edge_store.sqlite import open_scanner\n"
        "from edge_store.chain import add_digest_function, check_rows\n"
        "box = open_scanner(Path(sys.argv[1])); assert add_digest_function(box)\n"
        "print(*[len(check_rows(box, 1, 2, in_sql=each)) for each in (True, False)])"
    )
    command = [sys.executable, "-c", check, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), read == (BODY,)) == (["2", "2"], False)


def test_its_bodies_are_narrowed_to_the_chosen_results(file: Path) -> None:
    statement = "SELECT seq, response_body FROM bodies"
    with closing(open_reader(file)) as reader:
        with narrowed(reader, Selection(model="model-2"), statement):
            assert reader.execute(statement).fetchall() == [(2, BODY)]
        assert len(reader.execute(statement).fetchall()) == 2


@pytest.mark.parametrize("age", ["older", "newest"])
def test_its_bodies_are_whole_beside_archived_ones(tmp_path: Path, age: str) -> None:
    text = Content(input_text="q", request_body=b"{}", response_body=BODY)
    outputs = (Output(choice_index=0, output_text=TEXT),)
    box = Box(tmp_path, [9.0, 8.0, 1.0], outputs=outputs, content=text)
    assert box.put_away(keep_days=5).results == 2
    if age == "older":
        assert undo_newest_migration(box.connection)
    read = "SELECT seq, response_body FROM bodies ORDER BY seq"
    with together(box.path, str(box.archive)) as both:
        assert both.execute(read).fetchall() == [(1, BODY), (2, BODY), (3, BODY)]
        results = load_recorded(both, both.execute("SELECT * FROM results"))
        assert [each.result.content.response_body for each in results] == [BODY] * 3
    restored = tmp_path / "old.db"
    assert restore(box.path, str(box.archive), restored, (None, None)) == 2
    with closing(open_reader(restored)) as reader:
        assert reader.execute(read).fetchall() == [(1, BODY), (2, BODY)]
    box.close()
