"""A file that an older edge-store wrote, of before the view `bodies`, is read as it is."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from support.records import make_result, new_database
from support.soak.faults import undo_newest_migration

from edge_store.chain import verify_chain
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Content, Output, Result
from edge_store.rows import load_recorded
from edge_store.selection import Selection
from edge_store.shadows import narrowed
from edge_store.sql import sql
from edge_store.sqlite import open_reader

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


def test_its_bodies_are_narrowed_to_the_chosen_results(file: Path) -> None:
    statement = "SELECT seq, response_body FROM bodies"
    with closing(open_reader(file)) as reader:
        with narrowed(reader, Selection(model="model-2"), statement):
            assert reader.execute(statement).fetchall() == [(2, BODY)]
        assert len(reader.execute(statement).fetchall()) == 2
