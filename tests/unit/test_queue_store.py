"""Files, batches, lines and queued requests in a real database."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.records import make_result, new_database

import edge_store.queue.entries
from edge_store.clock import now_ms
from edge_store.errors import InvalidRequest, NotFound, QueueFull, StoreError, TenantOverShare
from edge_store.ids import new_result_id
from edge_store.paging import Paging
from edge_store.queue.entries import (
    Retry,
    Switch,
    accept_request,
    drop_finished_requests,
    drop_refused_requests,
    end_request,
    find_request,
    is_paused,
    line_standing,
    queue_length,
    queued_requests,
    refuse_line,
    request_standing,
    retry_lines,
    set_switch,
    standings,
)
from edge_store.queue.files import FileStore
from edge_store.queue.lines import LineState, Standing
from edge_store.queue.records import (
    Batch,
    BatchDetail,
    BatchState,
    QueuedRequest,
    StoredFile,
    seconds_of,
)
from edge_store.queue.store import (
    CancelBatch,
    add_batch,
    add_event,
    add_file,
    cancel_batch,
    drop_file,
    find_batch,
    find_batches,
    find_file,
    find_files,
    needed_sha256s,
    open_batches,
)
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.caller import Caller, Right
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.result import Boot, Receipt, Status
from edge_store.sql import sql
from edge_store.sqlite import Connection

OWN = frozenset({Right.GENERATE, Right.READ_OWN})
A = Caller(tenant="a", rights=OWN)
B = Caller(tenant="b", rights=OWN)
ALL = Caller(tenant="c")
ATTEMPTS_MAX = 3


@pytest.fixture
def database(tmp_path: Path) -> tuple[Connection, Boot]:
    return new_database(tmp_path / "results.db")


@pytest.fixture
def connection(database: tuple[Connection, Boot]) -> Connection:
    return database[0]


def file_of(file_id: str, tenant: str | None, **changes: Any) -> StoredFile:
    fields: dict[str, Any] = {
        "file_id": file_id, "created_at": 1, "expires_at": None, "tenant": tenant,
        "purpose": "batch", "filename": "f", "bytes": 1, "sha256": f"sha-{file_id}", **changes,
    }  # fmt: skip
    return StoredFile(**fields)


def batch_of(batch_id: str, caller: Caller = A, **changes: Any) -> Batch:
    now = now_ms()
    fields: dict[str, Any] = {
        "batch_no": 0, "batch_id": batch_id, "created_at": now, "tenant": caller.tenant,
        "caller": caller, "endpoint": "/v1/chat/completions", "input_file_id": "file-1",
        "input_sha256": "sha", "completion_window": "24h", "output_expires_s": None,
        "metadata": None, "state": BatchState.VALIDATING, "expires_at": now, "at": {},
        "detail": BatchDetail(), **changes,
    }  # fmt: skip
    return Batch(**fields)


def stored(database: tuple[Connection, Boot], *fields: dict[str, Any]) -> list[Any]:
    """Results, as the writer stores them; what it says of each."""
    connection, boot = database
    head = read_head(connection)
    (admitted,) = connection.execute("SELECT coalesce(max(boot_seq), 0) FROM results").fetchone()
    results = [make_result(admitted + n, boot.boot_id, **f) for n, f in enumerate(fields, 1)]
    return write_batch(connection, boot, head, admitted + len(results), results).outcomes


def failed(batch_id: str, custom_id: str | None, status: int = 502) -> dict[str, Any]:
    return {
        "batch_id": batch_id, "custom_id": custom_id, "status": Status.FAILED,
        "http_status": status, "error_type": "upstream_error", "error_message": "no",
    }  # fmt: skip


def completed(batch_id: str, custom_id: str) -> dict[str, Any]:
    return {"batch_id": batch_id, "custom_id": custom_id}


def files_of(
    connection: Connection, caller: Caller, *, after: str | None = None, ascending: bool = False
) -> list[str]:
    paging = Paging(limit=9, after=after, is_descending=not ascending)
    return [file.file_id for file in find_files(connection, caller, paging, None)[0]]


def batches_of(connection: Connection, caller: Caller, *, after: str | None = None) -> list[str]:
    found, _more = find_batches(connection, caller, Paging(limit=9, after=after))
    return [batch.batch_id for batch in found]


def test_a_tenants_files_are_not_there_for_another(connection: Connection) -> None:
    add_file(connection, file_of("file-a", "a"))
    add_file(connection, file_of("file-n", None))
    assert find_file(connection, "file-a", A).tenant == "a"
    assert find_file(connection, "file-a", ALL).tenant == "a"
    for caller, names in ((A, ["file-a"]), (ALL, ["file-n", "file-a"]), (B, [])):
        assert files_of(connection, caller) == names
    with pytest.raises(NotFound) as foreign:
        find_file(connection, "file-a", B)
    with pytest.raises(NotFound) as absent:
        find_file(connection, "file-x", B)
    assert str(foreign.value) == str(absent.value).replace("file-x", "file-a")


@pytest.mark.parametrize("ascending", [False, True])
def test_a_page_after_anothers_id_is_refused_as_that_after_none(
    connection: Connection, *, ascending: bool
) -> None:
    for file_id, tenant in (("file-1", "a"), ("file-b", "b"), ("file-2", "a")):
        add_file(connection, file_of(file_id, tenant))
        add_batch(connection, batch_of(f"batch_{file_id}", A if tenant == "a" else B))
    for name in ("b", "absent"):
        with pytest.raises(InvalidRequest, match="none of this list"):
            files_of(connection, A, after=f"file-{name}", ascending=ascending)
        with pytest.raises(InvalidRequest, match="none of this list"):
            batches_of(connection, A, after=f"batch_file-{name}")
    assert files_of(connection, A, after="file-1", ascending=ascending) == (
        ["file-2"] if ascending else []
    )
    assert len(files_of(connection, ALL, after="file-b", ascending=ascending)) == 1


def test_a_file_whose_time_is_over_is_not_there(connection: Connection) -> None:
    add_file(connection, file_of("file-1", "a", expires_at=now_ms() - 1))
    add_file(connection, file_of("file-2", "a", expires_at=now_ms() + 60_000))
    assert files_of(connection, A) == ["file-2"]
    with pytest.raises(NotFound):
        find_file(connection, "file-1", A)


def test_a_batch_is_its_newest_event(connection: Connection) -> None:
    add_batch(connection, batch_of("batch_1", metadata='{"a":"b"}'))
    assert find_batch(connection, "batch_1").state is BatchState.VALIDATING
    detail = BatchDetail(lines=2, model="m")
    begun = add_event(connection, "batch_1", BatchState.IN_PROGRESS, detail)
    assert (begun.state, begun.detail.lines, begun.caller) == (BatchState.IN_PROGRESS, 2, A)
    assert [b.batch_id for b in open_batches(connection, 9)] == ["batch_1"]
    output = file_of("file-o", "a", sha256="out")
    ended = BatchDetail(completed=1, failed=1, output_file_id="file-o")
    over = add_event(connection, "batch_1", BatchState.COMPLETED, ended, None, (output,))
    assert (over.detail.lines, over.detail.completed) == (2, 1)
    assert open_batches(connection, 9) == []
    assert find_file(connection, "file-o", A) == output


def test_a_tenants_batches_are_not_there_for_another(connection: Connection) -> None:
    add_batch(connection, batch_of("batch_1"))
    add_batch(connection, batch_of("batch_2"))
    assert find_batches(connection, A, Paging(limit=1))[1]
    assert batches_of(connection, A) == ["batch_2", "batch_1"]
    assert batches_of(connection, A, after="batch_2") == ["batch_1"]
    assert batches_of(connection, B) == []
    with pytest.raises(NotFound):
        find_batch(connection, "batch_1", B)


def test_a_batch_is_cancelled_while_it_has_not_ended(connection: Connection) -> None:
    params = CancelBatch(batch_id="batch_1")
    with pytest.raises(NotFound):
        cancel_batch(connection, params)
    add_batch(connection, batch_of("batch_1"))
    assert cancel_batch(connection, params).state is BatchState.CANCELLING
    assert cancel_batch(connection, params).state is BatchState.CANCELLING
    add_event(connection, "batch_1", BatchState.COMPLETED)
    with pytest.raises(InvalidRequest):
        cancel_batch(connection, params)


def test_a_line_stands_where_its_results_say(database: tuple[Connection, Boot]) -> None:
    connection, _ = database
    stored(
        database,
        completed("batch_1", "done"),
        failed("batch_1", "again"),
        failed("batch_1", "again"),
        *[failed("batch_1", "dead")] * ATTEMPTS_MAX,
        failed("batch_1", "refused", 400),
        {**completed("batch_1", "cut"), "status": Status.CANCELLED},
        failed("batch_1", "late"),
        completed("batch_1", "late"),
        completed("batch_2", "other"),
    )
    refuse_line(connection, "batch_1", "never", (400, "invalid_request", "no"))
    known = standings(connection, "batch_1", ATTEMPTS_MAX)
    for name, standing in known.items():
        assert line_standing(connection, "batch_1", name, ATTEMPTS_MAX) == standing
    waits = Standing(LineState.WAITING)
    assert line_standing(connection, "batch_1", "new", ATTEMPTS_MAX) == waits
    assert known == {
        "done": Standing(LineState.COMPLETED, 0),
        "again": Standing(LineState.WAITING, 2),
        "dead": Standing(LineState.DEAD, 3),
        "refused": Standing(LineState.REFUSED, 1),
        "late": Standing(LineState.COMPLETED, 1),
        "never": Standing(LineState.REFUSED, 0),
    }


def test_a_line_cannot_be_completed_twice(database: tuple[Connection, Boot]) -> None:
    first, other = stored(database, completed("batch_1", "a"), completed("batch_2", "a"))
    second, again, third = stored(
        database, completed("batch_1", "a"), failed("batch_1", "a"), completed("batch_1", "b")
    )
    assert [type(outcome) for outcome in (first, other, again, third)] == [Receipt] * 4
    assert isinstance(second, StoreError)


def test_a_line_whose_result_was_deleted_is_done_and_never_tried_again(
    database: tuple[Connection, Boot],
) -> None:
    connection, _ = database
    add_batch(connection, batch_of("batch_1"))
    add_event(connection, "batch_1", BatchState.IN_PROGRESS, BatchDetail(lines=2))
    stored(database, failed("batch_1", "done"), completed("batch_1", "done"))
    stored(database, *[failed("batch_1", "dead")] * ATTEMPTS_MAX)
    every = [seq for (seq,) in connection.execute("SELECT seq FROM results")]
    delete_results(connection, every, Reason.FORGET)
    assert standings(connection, "batch_1", ATTEMPTS_MAX) == {
        "done": Standing(LineState.COMPLETED, 0)
    }
    with pytest.raises(InvalidRequest):
        retry_lines(connection, Retry(batch_id="batch_1", attempts_max=ATTEMPTS_MAX))


def test_failed_lines_are_retried_and_their_batch_goes_on(
    database: tuple[Connection, Boot],
) -> None:
    connection, _ = database
    add_batch(connection, batch_of("batch_1"))
    add_file(connection, file_of("file-1", "a", sha256="sha"))
    add_event(connection, "batch_1", BatchState.IN_PROGRESS, BatchDetail(lines=3))
    stored(database, *[failed("batch_1", "dead")] * 3, failed("batch_1", "no", 400))
    end = BatchDetail(failed=2, error_file_id="file-e")
    add_event(connection, "batch_1", BatchState.COMPLETED, end)
    params = Retry(batch_id="batch_1", custom_id="dead", attempts_max=ATTEMPTS_MAX)
    assert retry_lines(connection, params) == 1
    batch = find_batch(connection, "batch_1")
    assert (batch.state, batch.detail) == (BatchState.IN_PROGRESS, BatchDetail(lines=3))
    assert BatchState.COMPLETED not in batch.at
    known = standings(connection, "batch_1", ATTEMPTS_MAX)
    assert known["dead"] == Standing(LineState.WAITING, 0)
    assert known["no"].state is LineState.REFUSED
    with pytest.raises(InvalidRequest):
        retry_lines(connection, params)
    stored(database, failed("batch_1", "dead"))
    assert standings(connection, "batch_1", ATTEMPTS_MAX)["dead"].attempts == 1


def test_a_batch_without_its_input_is_not_retried(database: tuple[Connection, Boot]) -> None:
    connection, _ = database
    add_batch(connection, batch_of("batch_1"))
    add_event(connection, "batch_1", BatchState.IN_PROGRESS, BatchDetail(lines=1))
    stored(database, failed("batch_1", "no", 400))
    add_event(connection, "batch_1", BatchState.COMPLETED)
    with pytest.raises(InvalidRequest, match="deleted"):
        retry_lines(connection, Retry(batch_id="batch_1", attempts_max=1))


def test_the_bytes_of_an_open_batch_are_needed(connection: Connection) -> None:
    add_file(connection, file_of("file-1", "a", sha256="one"))
    add_batch(connection, batch_of("batch_1", input_sha256="two"))
    asked = ["one", "two", "three"]
    assert needed_sha256s(connection, asked) == {"one", "two"}
    assert needed_sha256s(connection, ["two"]) == {"two"}
    drop_file(connection, "file-1")
    add_event(connection, "batch_1", BatchState.FAILED)
    assert needed_sha256s(connection, asked) == set()


def queued(caller: Caller = A) -> QueuedRequest:
    return QueuedRequest(
        id=new_result_id(), created_at=1, caller=caller, endpoint="/generate", body=b"{}"
    )


def test_requests_wait_in_order_up_to_a_number(connection: Connection) -> None:
    first, second = queued(), queued(B)
    accept_request(connection, first, 2)
    accept_request(connection, second, 2)
    with pytest.raises(QueueFull):
        accept_request(connection, queued(), 2)
    found = queued_requests(connection, (), 9)
    assert [request for _, request in found] == [first, second]
    assert queued_requests(connection, {found[0][0]}, 9) == found[1:]
    assert find_request(connection, first.id, A) == (1, None)
    assert find_request(connection, first.id, B) is None


def test_tenants_share_what_waits_and_take_turns(connection: Connection) -> None:
    for n in range(15):
        accept_request(connection, queued(), 16)
        add_batch(connection, batch_of(f"batch_{n}"))
    with pytest.raises(QueueFull):
        accept_request(connection, queued(), 16)
    last = queued(B)
    accept_request(connection, last, 16)
    add_batch(connection, batch_of("batch_b", B))
    found = [request.caller.tenant for _, request in queued_requests(connection, (), 3)]
    assert found == ["a", "b", "a"]
    assert [b.batch_id for b in open_batches(connection, 3)] == ["batch_0", "batch_b", "batch_1"]
    connection.execute("DELETE FROM queued_requests WHERE request_no = 1")
    accept_request(connection, queued(B), 17)
    with pytest.raises(TenantOverShare):
        accept_request(connection, queued(), 17)


def test_a_queued_request_stands_where_its_results_say(
    database: tuple[Connection, Boot],
) -> None:
    connection, _ = database
    request = queued()
    accept_request(connection, request, 9)
    stored(database, failed(request.id, None))
    assert request_standing(connection, request.id, 3) == Standing(LineState.WAITING, 1)
    stored(database, {"batch_id": request.id, "id": request.id})
    assert request_standing(connection, request.id, 3).state is LineState.COMPLETED
    gone = queued()
    accept_request(connection, gone, 9)
    stored(database, {"batch_id": gone.id, "id": gone.id})
    delete_results(connection, [3], Reason.RETENTION)
    assert request_standing(connection, gone.id, 3).state is LineState.COMPLETED
    drop_finished_requests(connection, gone.id)
    assert find_request(connection, gone.id, A) is None
    other = queued()
    accept_request(connection, other, 9)
    drop_finished_requests(connection, other.id)
    assert find_request(connection, request.id, A)
    drop_finished_requests(connection)
    assert find_request(connection, request.id, A) is None
    assert find_request(connection, other.id, A)


def test_a_request_that_is_refused_later_says_so_and_is_asked_no_more(
    connection: Connection,
) -> None:
    request = queued()
    accept_request(connection, request, 9)
    refuse_line(connection, request.id, None, (400, "invalid_request", "no"))
    assert queued_requests(connection, (), 9) == []
    assert find_request(connection, request.id, A) == (1, (400, "invalid_request", "no"))


def test_a_request_that_was_refused_takes_no_place_and_is_told_for_a_day(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, waits, later = queued(), queued(), queued()
    for request in (refused, waits):
        accept_request(connection, request, 2)
    refuse_line(connection, refused.id, None, (400, "invalid_request", "no"))
    assert queue_length(connection) == 1
    assert drop_refused_requests(connection) == 0
    accept_request(connection, later, 2)
    assert find_request(connection, refused.id, A) is None
    assert connection.execute("SELECT count(*) FROM line_marks").fetchone() == (0,)
    with pytest.raises(QueueFull):
        accept_request(connection, queued(), 2)
    refuse_line(connection, later.id, None, (400, "invalid_request", "no"))
    monkeypatch.setattr(edge_store.queue.entries, "REFUSED_KEPT_MS", -1)
    assert drop_refused_requests(connection) == 1
    assert [request for _, request in queued_requests(connection, (), 9)] == [waits]


def test_a_request_that_is_dead_without_a_result_of_its_own_says_so(
    database: tuple[Connection, Boot],
) -> None:
    connection, _ = database
    dead, done = queued(), queued()
    for request in (dead, done):
        accept_request(connection, request, 9)
    stored(
        database, failed(dead.id, None), failed(done.id, None), {**failed("b", None), "id": done.id}
    )
    for request in (dead, done):
        end_request(connection, request.id, request_standing(connection, request.id, 1).state)
    found = find_request(connection, dead.id, A)
    assert found is not None
    assert found[1] is not None
    assert found[1][:2] == (502, "engine_error")
    assert find_request(connection, done.id, A) is None
    assert queued_requests(connection, (), 9) == []


# what may be read whole: what has not ended, and lists that were given
OPEN = {"o", "t", "json_each", "queued_requests", "q"}


@pytest.mark.parametrize(
    "name",
    [
        "delete_expired_files", "delete_finished_request", "delete_finished_requests",
        "insert_missing_entries", "delete_ended_responses", "select_attempts_of_line",
        "select_batches_before", "select_batches_of_tenant_before", "select_files_after",
        "select_files_before", "select_files_of_tenant_after", "select_files_of_tenant_before",
        "select_needed_sha256s", "select_newest_line_mark", "select_open_batches",
        "select_queued_requests", "select_waiting_responses",
    ],
)  # fmt: skip
def test_no_statement_of_the_queue_reads_all_that_has_ended(
    connection: Connection, name: str
) -> None:
    values = dict.fromkeys(re.findall(r":(\w+)", sql(name)))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql(name)}", values)]
    scanned = {step.split()[1] for step in plan if step.startswith("SCAN") and "(" not in step}
    assert scanned <= OPEN, plan
    if "before" in name or "after" in name:
        assert not any("TEMP B-TREE" in step for step in plan), plan
        assert ("_by_tenant (tenant=?" in str(plan)) == ("of_tenant" in name), plan


def test_the_switch_stays_where_it_was_set(connection: Connection) -> None:
    assert not is_paused(connection)
    assert set_switch(connection, Switch(is_paused=True))
    assert not set_switch(connection, Switch(is_paused=True))
    assert is_paused(connection)
    assert set_switch(connection, Switch(is_paused=False))
    assert not is_paused(connection)


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("90s", 90), ("30d", 2_592_000)])
def test_a_window_is_a_length_of_time(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "31d", "-1h", "24 h", "²h", "24hh"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="completion_window"):
        seconds_of(text)


async def test_bytes_that_nobody_needs_are_swept_and_unfinished_ones_of_others(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path / "results.db")
    kept, dropped, ours = store.create(), store.create(), store.create()
    theirs = FileStore(tmp_path / "results.db").create()
    kept.write(b"kept")
    dropped.write(b"dropped")
    for file in (kept, dropped):
        file.finish()

    async def entered() -> None:
        return

    await store.publish([kept, dropped], entered)

    async def needed(_names: list[str]) -> set[str]:
        return {kept.sha256}

    assert await store.sweep(needed) == 2
    left = {path.name for path in store.folder.iterdir()}
    assert kept.sha256 in left
    assert len(left) == 2, "and one that is being written"
    assert store.path(kept.sha256).read_bytes() == b"kept"
    for file in (ours, theirs):
        file.discard()


async def test_bytes_from_before_a_restore_are_left_alone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "results.db")
    older = store.create()
    older.write(b"of the database that was put aside")
    older.finish()

    async def entered() -> None:
        return

    await store.publish([older], entered)

    async def needed(_names: list[str]) -> set[str]:
        return set()

    restored_ms = store.path(older.sha256).stat().st_mtime_ns // 1_000_000 + 1
    assert await store.sweep(needed, restored_ms) == 0
    assert store.path(older.sha256).exists()
    assert await store.sweep(needed) == 1
