"""The schema is what was reviewed, and every statement fits it."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest
from support.records import new_database

from edge_store.errors import SchemaTooNew
from edge_store.schema import FILES, SCHEMA_VERSION, migrate
from edge_store.sql import blocks
from edge_store.sqlite import APPLICATION_ID, Connection, open_reader, open_writer

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "schema.sql"

# A migration is never edited once released: a change is a new file.
RELEASED = {
    "0001_initial.sql": "a078aeb971b31c0201d6e06adb25809950e3f6457b1814be3856e65187880124",
    "0002_keys.sql": "8cf3901a4f1a436dfa66e84a42fd82d470a2fa93d47fca47c92424c6730c7d62",
    "0003_batches.sql": "3b636b109d0ebe971d02b43866a0419dddc9d6b5caaa083e6cd6b063ce1fbe73",
    "0004_responses.sql": "873abb3dd1c11cef4f69e5da274fc870f901e929f7a895865169898d4a63a49f",
    "0006_privacy.sql": "0af9b542da5492c37441088cba5652f17de92da17b883efd9268b80c14d3663c",
    "0007_open.sql": "f61cae3fcc4807ada229fdef52b7c47e75c11c8be135deed3faa8e0fed8df6fc",
    "0008_queries.sql": "47d1dd9dd386f916a357ef9df43106101efd3737372a9a889938b892b7ab219f",
    "0009_archives.sql": "242ba05ce8b649395aeda1ef575df13926d7123ec9c5edb42dc53de50384aed6",
    "0010_sinks.sql": "325cf33ccebf892fc189f46436dc1c7c5c4b3070ceef22bc94a9e90f9ad20e9a",
    "0011_days.sql": "d0242c50fd8499c815101b11363cfbbb0702634f6eefbd8a1e37864620827510",
    "0012_bodies.sql": "7d3f39e535d73b186e365f5a42f8e3c54a6f21fd54cfcb87c151d8a0c8986e7d",
}


@pytest.fixture
def database(tmp_path: Path) -> Connection:
    connection, _ = new_database(tmp_path / "results.db")
    return connection


def schema_of(connection: Connection) -> str:
    rows = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "ORDER BY type, name"
    )
    return "".join(f"{sql};\n\n" for (sql,) in rows)


def test_all_migrations_make_the_reviewed_schema(database: Connection) -> None:
    assert schema_of(database) == GOLDEN.read_text(encoding="utf-8")


def test_no_released_migration_was_edited() -> None:
    texts = {name: files("edge_store.schema").joinpath(name).read_bytes() for name in FILES}
    assert {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()} == RELEASED


def test_the_file_says_what_it_is(database: Connection) -> None:
    assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_migrating_again_changes_nothing(database: Connection) -> None:
    before = schema_of(database), database.total_changes
    migrate(database)
    assert (schema_of(database), database.total_changes) == before


def test_a_file_from_the_future_is_refused(database: Connection) -> None:
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(SchemaTooNew) as refused:
        migrate(database)
    assert refused.value.exit_code == 76
    assert str(SCHEMA_VERSION + 1) in str(refused.value)


def test_every_table_of_ours_is_strict(database: Connection) -> None:
    loose = [
        name
        for _, name, kind, _, _, strict in database.execute("PRAGMA table_list")
        if kind == "table" and not strict and not name.startswith(("sqlite_", "_sqlite_"))
    ]
    assert loose == []


@pytest.mark.parametrize("name", sorted(blocks()))
def test_every_statement_is_used(name: str) -> None:
    sources = (path.read_text() for path in (ROOT / "edge_store").rglob("*.py"))
    assert any(f'"{name}"' in source for source in sources)


def test_the_usual_pipelines_table_is_there(database: Connection) -> None:
    cursor = database.execute("SELECT * FROM sglang_inference_results")
    assert [column[0] for column in cursor.description] == [
        "request_id",
        "model_name",
        "prompt",
        "output_data",
        "generated_tokens",
        "latency_ms",
        "created_at",
    ]


def test_every_view_can_be_read(database: Connection) -> None:
    views = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type='view'")]
    assert len(views) >= 6
    for view in views:
        assert database.execute(f"SELECT * FROM {view}").description


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    connection = open_writer(tmp_path / "results.db")
    migrate(connection)
    reader = open_reader(tmp_path / "results.db")
    with pytest.raises(Exception, match="readonly"):
        reader.execute("DELETE FROM results")
