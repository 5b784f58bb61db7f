"""The lake is the union of all rows that any copy ever had, but for what was forgotten."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.compute as pc
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from support.lakes import exported, in_copies, in_lake
from support.replicating import Database

from edge_store.errors import ConfigError, LakeFailed, LakeOvertaken, NotFound
from edge_store.fleet.lake import append, care
from edge_store.fleet.lake.append import Appender
from edge_store.fleet.lake.ask import ask_lake
from edge_store.fleet.lake.export import find_all_copies
from edge_store.fleet.lake.store import Lake, lake_errors, watermarks
from edge_store.fleet.lake.tables import TABLES, Source, rows_after, schema_of
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_copy, open_writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fleet").mkdir()
    return tmp_path / "fleet"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


Copy = Callable[[Database, str], Path]


@pytest.fixture
def copy(folder: Path) -> Copy:
    """Puts the copy of a box into the folder."""

    def put(box: Database, name: str) -> Path:
        target = folder / f"{name}.db"
        target.unlink(missing_ok=True)
        box.connection.execute("VACUUM INTO ?", (str(target),))
        return target

    return put


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "box-a.db", "box-a")
    database.write(5)
    yield database
    database.close()


def restored(box: Database, path: Path, upto: int) -> Database:
    """The box anew, from its state after that commit, as a restore leaves it."""
    box.connection.execute("VACUUM INTO ?", (str(path),))
    with closing(open_writer(path)) as connection:
        delete = "DELETE FROM {} WHERE seq > ?"
        for table in ("outputs", "requests", "results"):
            connection.execute(delete.format(table), (upto,))
        connection.execute("DELETE FROM commits WHERE seq_to > ?", (upto,))
        create_identity(connection, box.device_id, reason="restored")
    return Database(path, box.device_id)


def test_lake_has_every_row_of_every_box_once(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    other = Database(tmp_path / "box-b.db", "box-b")
    other.write(3)
    copies = copy(box, "box-a"), copy(other, "box-b")
    other.close()
    for _ in range(2):  # the second time nothing is new
        exported(folder, lake)
        for table in TABLES:
            assert in_lake(lake, table) == in_copies(*copies, table=table) != []


def test_only_new_rows_are_appended(folder: Path, lake: Lake, box: Database, copy: Copy) -> None:
    copy(box, "box-a")
    first, _ = exported(folder, lake)
    version = lake.open("results").version()
    again, _ = exported(folder, lake)
    assert lake.open("results").version() == version
    box.write(2)
    copy(box, "box-a")
    then, _ = exported(folder, lake)
    assert [[each.rows for each in run] for run in (first, again, then)] == [
        [5, 5, 5], [0, 0, 0], [2, 2, 2],
    ]  # fmt: skip


def test_tail_of_a_copy_is_what_the_lake_lacks(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    exported(folder, lake)
    box.write(2)
    batches = rows_after(copy(box, "box-a"), "outputs", watermarks(lake))
    assert [seq for batch in batches for seq in batch["seq"].to_pylist()] == [6, 7]


def test_a_restored_box_hides_nothing_and_doubles_nothing(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    box.write(2)
    copy(box, "box-a")
    exported(folder, lake)
    aside = copy(box, "box-a.2026-01-01T000000Z")
    again = restored(box, tmp_path / "again.db", 5)
    again.write(4)
    now = copy(again, "box-a")
    again.close()
    reports, _ = exported(folder, lake)
    for table in TABLES:
        assert in_lake(lake, table) == in_copies(aside, now, table=table)
    assert [each.conflicts for each in reports] == [0, 0, 0]
    assert len(in_lake(lake, "results")) == 11


def test_a_box_that_was_set_back_in_secret_hides_nothing(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    """A machine's snapshot goes on with the same timeline: the same seq is two results then."""
    box.connection.execute("VACUUM INTO ?", (str(tmp_path / "snapshot.db"),))
    box.write(4)
    aside = copy(box, "box-a.2026-01-01T000000Z")
    exported(folder, lake)
    twin = Database(tmp_path / "snapshot.db", "box-a")
    twin.write(6)
    now = copy(twin, "box-a")
    for _ in range(3):
        exported(folder, lake)
        for table in TABLES:
            assert in_lake(lake, table) == in_copies(aside, now, table=table)
    twin.write(1)
    twin.close()
    assert len(in_lake(lake, "results")) == 15


def test_an_older_copy_that_nobody_exported_is_in_the_lake(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    aside = copy(box, "box-a.2026-01-01T000000Z")
    anew = Database(tmp_path / "anew.db", "box-a")
    anew.write(2)
    now = copy(anew, "box-a")
    anew.close()
    exported(folder, lake)
    assert in_lake(lake, "results") == in_copies(aside, now, table="results")
    assert len(in_lake(lake, "results")) == 7


def test_retention_of_the_box_removes_nothing(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    before = copy(box, "box-a")
    exported(folder, lake)
    had = in_copies(before, table="results")
    delete_results(box.connection, [1, 2, 5], Reason.RETENTION)
    copy(box, "box-a")
    exported(folder, lake)
    assert in_lake(lake, "results") == had


def test_what_the_box_forgot_is_gone_with_its_bytes(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    exported(folder, lake)
    gone = box.connection.execute("SELECT id FROM results WHERE seq IN (2, 3)").fetchall()
    (stays,) = box.connection.execute("SELECT id FROM results WHERE seq = 1").fetchone()
    delete_results(box.connection, [2, 3], Reason.FORGET)
    now = copy(box, "box-a")
    reports, _ = exported(folder, lake)
    assert [each.forgotten for each in reports] == [2, 2, 2]
    for table in TABLES:
        assert in_lake(lake, table) == in_copies(now, table=table)
        files = {str(file) for file in Path(lake.uri(table)).rglob("*.parquet")}
        assert files == {uri.removeprefix("file://") for uri in lake.open(table).file_uris()}
        dataset = lake.open(table).to_pyarrow_dataset()
        assert dataset.count_rows(filter=pc.field("timeline") != "another") == 3
        assert dataset.count_rows(filter=pc.field("id") == stays) == 1
    again, _ = exported(folder, lake)
    assert [each.forgotten for each in again] == [0, 0, 0]
    log = b"".join(file.read_bytes() for file in Path(lake.uri("results")).rglob("*.json"))
    assert stays.encode() in log, "or the next line proves nothing"
    assert len(gone) == 2


def test_what_the_box_forgot_is_gone_from_tables_that_are_not_exported(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    exported(folder, lake)
    box.write(1)
    delete_results(box.connection, [2], Reason.FORGET)
    copy(box, "box-a")
    reports, _ = exported(folder, lake, tables=("results", "outputs"))
    assert [(each.table, each.rows, each.forgotten) for each in reports] == [
        ("results", 1, 1), ("outputs", 1, 1), ("requests", 0, 1),
    ]  # fmt: skip
    assert len(in_lake(lake, "requests")) == 4


def test_a_writer_that_read_before_the_box_forgot_is_refused(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    exported(folder, lake)
    box.write(1)
    slow = Appender(lake, "results", 2)
    with Source(copy(box, "box-a")) as source:
        assert slow.append(source, frozenset()) == (1, (), 0)
    delete_results(box.connection, [6], Reason.FORGET)
    copy(box, "box-a")
    exported(folder, lake)
    with pytest.raises(LakeOvertaken):
        slow.flush()


def test_a_writer_that_committed_since_sees_what_another_appended(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    slow = Appender(lake, "results", 2)
    exported_by_another = copy(box, "box-a")
    exported(folder, lake)
    with closing(Database(tmp_path / "box-b.db", "box-b")) as other:
        other.write(1)
        with Source(other.path) as source:
            slow.append(source, frozenset())
    slow.flush()
    with Source(exported_by_another) as source:
        assert slow.append(source, frozenset()) == (0, (), 0)


def test_what_was_forgotten_does_not_come_back_with_an_older_copy(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    again = restored(box, tmp_path / "again.db", 5)
    again.write(1)
    delete_results(again.connection, [2], Reason.FORGET)
    copy(again, "box-a")
    again.close()
    exported(folder, lake)
    box.write(2)
    copy(box, "box-a.2026-01-01T000000Z")
    exported(folder, lake)
    (gone,) = box.connection.execute("SELECT id FROM results WHERE seq = 2").fetchone()
    found = lake.open("results").to_pyarrow_dataset().to_table()["id"].to_pylist()
    assert (len(found), gone in found) == (7, False)


def test_the_same_id_with_other_content_is_told_and_both_are_kept(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    before = copy(box, "box-a")
    exported(folder, lake)
    aside = before.rename(before.with_name("box-a.2026-01-01T000000Z.db"))
    other = Path(shutil.copy(aside, before))
    with closing(open_copy(other)) as connection:
        connection.execute("UPDATE results SET error_message = 'x', digest = randomblob(32)")
        (one,) = connection.execute("SELECT id FROM results WHERE seq = 5").fetchone()
    reports, said = exported(folder, lake)
    assert reports[0].conflicts == 5
    assert one in said[0].conflicts
    assert in_lake(lake, "results") == in_copies(aside, other, table="results")
    assert len(in_lake(lake, "outputs")) == 5


def test_a_copy_that_cannot_be_read_is_told_and_the_others_are_exported(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    now = copy(box, "box-a")
    (folder / "box-0.db").write_bytes(b"no database" * 1000)
    reports, said = exported(folder, lake)
    assert [each.failed for each in reports] == [1, 1, 1]
    assert [each.code for each in said if each.error] == ["not_an_edge_store_file"]
    assert in_lake(lake, "results") == in_copies(now, table="results")


@pytest.fixture
def aside(folder: Path, box: Database, copy: Copy) -> Path:
    """A copy that is kept beside, as it alone has the first two of five results."""
    kept = copy(box, "box-a.2026-01-01T000000Z")
    delete_results(box.connection, [1, 2], Reason.RETENTION)
    copy(box, "box-a")
    return kept


def cut_off(path: Path) -> Callable[[], None]:
    """Nothing can be read in it until what is returned is called."""
    hidden = path.rename(path.with_suffix(".hidden"))
    path.write_bytes(b"no database" * 1000)

    def mend() -> None:
        hidden.replace(path)

    return mend


def test_an_older_copy_that_could_not_be_read_for_a_while_loses_nothing(
    folder: Path, lake: Lake, aside: Path
) -> None:
    mend = cut_off(aside)
    for _ in range(3):
        exported(folder, lake)
    version = lake.open("results").version()
    exported(folder, lake)
    assert lake.open("results").version() == version, "a copy that stays away costs no commit"
    assert len(in_lake(lake, "results")) == 3
    mend()
    for rows in (2, 0):
        reports, _ = exported(folder, lake)
        assert [each.rows for each in reports] == [rows, rows, rows]
        for table in TABLES:
            assert in_lake(lake, table) == in_copies(aside, table=table)
    version = lake.open("results").version()
    exported(folder, lake)
    assert lake.open("results").version() == version


def test_an_older_copy_with_a_row_that_is_refused_for_a_while_loses_nothing(
    folder: Path, lake: Lake, aside: Path
) -> None:
    with closing(open_copy(aside)) as connection:
        (right,) = connection.execute("SELECT created_at FROM results WHERE seq = 1").fetchone()
        set_time = "UPDATE results SET created_at = ? WHERE seq = 1"
        connection.execute(set_time, (2**62,))
        for _ in range(70):  # more often than there are places for watermarks
            (report,), _ = exported(folder, lake, tables=("results",))
            assert report.failed == 1
        connection.execute(set_time, (right,))
    (report,), _ = exported(folder, lake, tables=("results",))
    assert (report.failed, report.rows) == (0, 2)
    assert in_lake(lake, "results") == in_copies(aside, table="results")


def test_a_query_tells_what_only_a_copy_has_that_an_export_could_not_read(
    folder: Path, lake: Lake, aside: Path
) -> None:
    mend = cut_off(aside)
    exported(folder, lake)
    mend()
    copies = find_all_copies(folder)
    for table in TABLES:
        answer = ask_lake(
            lake, copies, f"SELECT seq FROM {table} ORDER BY 1", rows_max=100, timeout_s=60
        )
        assert answer is not None
        assert [seq for (seq,) in answer.result.rows] == [1, 2, 3, 4, 5]


def test_what_is_forgotten_stays_away_while_the_newest_copy_cannot_be_read(
    folder: Path, lake: Lake, box: Database, copy: Copy, aside: Path
) -> None:
    delete_results(box.connection, [4], Reason.FORGET)
    newest = copy(box, "box-a")
    mend = cut_off(aside)
    exported(folder, lake)
    mend()
    mend = cut_off(newest)
    exported(folder, lake)
    mend()
    exported(folder, lake)
    found = lake.open("results").to_pyarrow_dataset().to_table()["seq"].to_pylist()
    assert sorted(found) == [1, 2, 3, 5]


@pytest.mark.parametrize("at", [-1, 400_000_000_000_000, 10**16, 2**62])
def test_a_copy_with_a_time_in_no_year_is_told_and_the_others_are_exported(
    folder: Path, lake: Lake, box: Database, copy: Copy, at: int
) -> None:
    copy(box, "box-z")
    box.connection.execute("UPDATE results SET created_at = ? WHERE seq = 5", (at,))
    copy(box, "box-a")
    (report,), said = exported(folder, lake, tables=("results",))
    assert (report.failed, report.rows) == (1, 5)
    assert [(each.copy.stem, each.code) for each in said if each.error] == [
        ("box-a", "database_corrupt")
    ]
    assert len(in_lake(lake, "results")) == 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE results SET digest = 'a text' WHERE seq = 5",
        "UPDATE results SET device_id = NULL",
        "UPDATE results SET created_at = NULL",
        "UPDATE results SET input_tokens = 'many'",
        "UPDATE results SET id = x'ff'",
    ],
)
def test_a_copy_of_a_box_that_writes_anything_is_told_and_the_others_are_exported(
    folder: Path, lake: Lake, box: Database, copy: Copy, change: str
) -> None:
    copy(box, "box-a")
    odd = Path(shutil.copy(folder / "box-a.db", folder / "box-0.db"))
    with closing(open_copy(odd)) as connection:
        connection.execute("UPDATE device SET device_id = 'box-0'")
        connection.execute("UPDATE results SET device_id = 'box-0'")
        (made,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'results'"
        ).fetchone()
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(results)")]
        connection.execute(f"CREATE TABLE loose AS SELECT {', '.join(names)} FROM results")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute("DROP TABLE results")
        connection.execute("ALTER TABLE loose RENAME TO results")
        connection.execute(change)
    assert "STRICT" in made
    (report,), said = exported(folder, lake, tables=("results",))
    assert (report.failed, report.rows) == (1, 5)
    assert [(each.copy.stem, each.code) for each in said if each.error] == [
        ("box-0", "database_corrupt")
    ]


def test_a_copy_with_a_row_that_is_refused_forgets_all_the_same(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    exported(folder, lake, tables=("results",))
    delete_results(box.connection, [1], Reason.FORGET)
    box.write(1, created_at=2**62)
    copy(box, "box-a")
    (report,), _ = exported(folder, lake, tables=("results",))
    assert (report.failed, report.forgotten) == (1, 1)


def test_an_older_lake_gets_the_columns_that_are_new(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    copy(box, "box-a")
    schema = schema_of("results")
    older = schema.remove(schema.get_field_index("privacy"))
    write_deltalake(lake.uri("results"), older.empty_table(), partition_by=["date", "bucket"])
    exported(folder, lake)
    assert set(lake.open("results").to_pyarrow_dataset().schema.names) == set(schema.names)
    assert len(in_lake(lake, "results")) == 5


def test_a_second_writer_of_the_same_rows_is_refused_and_looks_again(
    folder: Path, lake: Lake, box: Database, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = copy(box, "box-a")
    flush, ran = Appender.flush, list[bool]()

    def overtaken(appender: Appender) -> None:
        if not ran:
            ran.append(True)
            exported(folder, lake, tables=("results",))
        flush(appender)

    monkeypatch.setattr(Appender, "flush", overtaken)
    exported(folder, lake)
    assert ran
    assert in_lake(lake, "results") == in_copies(now, table="results")


def test_a_writer_that_is_always_overtaken_says_so(
    folder: Path, lake: Lake, box: Database, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(box, "box-a")
    flush = Appender.flush

    def overtaken(appender: Appender) -> None:
        write_deltalake(
            lake.uri("results"),
            schema_of("results").empty_table(),
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction("box/box-a", 1)]),
        )
        flush(appender)

    monkeypatch.setattr(Appender, "flush", overtaken)
    with pytest.raises(LakeOvertaken):
        exported(folder, lake)


def test_a_group_of_rows_is_committed_with_how_far_it_came(
    folder: Path, lake: Lake, box: Database, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.write(200)
    now = copy(box, "box-a")
    monkeypatch.setattr(append, "GROUP_BYTES", 1)
    exported(folder, lake)
    assert lake.open("results").version() == 3
    assert in_lake(lake, "results") == in_copies(now, table="results")


def test_compaction_and_vacuum_leave_rows_and_watermarks(
    folder: Path, lake: Lake, box: Database, copy: Copy
) -> None:
    for _ in range(3):
        box.write(2)
        now = copy(box, "box-a")
        exported(folder, lake)
    done = care.compact(lake, "results", 2**20)
    assert (done.files_before, done.files_after) == (3, 1)
    assert care.vacuum(lake, "results", 0) >= 3
    lake.open("results").create_checkpoint()
    lake.open("results").cleanup_metadata()
    assert in_lake(lake, "results") == in_copies(now, table="results")
    again, _ = exported(folder, lake)
    assert [each.rows for each in again] == [0, 0, 0]
    (state, *_) = care.states(lake, {"results": lake.open("results")})
    assert (state.rows, state.files, str(state.first_day)) == (11, 1, "2025-10-09")


def test_expired_days_do_not_come_back(
    folder: Path, lake: Lake, box: Database, copy: Copy, tmp_path: Path
) -> None:
    box.write(2)
    copy(box, "box-a")
    exported(folder, lake)
    assert care.expire(lake, "results", 10_000) == 0
    assert care.expire(lake, "results", 1) == 7
    assert care.expire(lake, "results", 10) == 0
    again = restored(box, tmp_path / "again.db", 5)
    copy(again, "box-a")
    again.close()
    exported(folder, lake)
    assert in_lake(lake, "results") == []
    assert len(in_lake(lake, "outputs")) == 7


def test_an_error_of_the_store_is_one_plain_line(lake: Lake) -> None:
    with pytest.raises(LakeFailed) as failed, lake_errors(lake):
        raise DeltaError("of S3\n   \x1b[31m↳\x1b[0m no answer\n")
    assert str(failed.value) == f"the lake at {lake}: of S3 ↳ no answer"


def test_a_place_that_is_no_lake_is_refused(lake: Lake) -> None:
    with pytest.raises(NotFound):
        lake.open("results")
    with pytest.raises(ConfigError):
        Lake("sftp://user@host/lake?host_key=AAAA")
    assert watermarks(lake).tables == {}


def test_an_export_holds_its_copies_only_while_it_reads_them(box: Database, copy: Copy) -> None:
    path = copy(box, "box-a")
    with Source(path) as source:
        assert source.device_id == "box-a"
    with closing(open_copy(path)) as connection:
        connection.execute("DELETE FROM drills")
