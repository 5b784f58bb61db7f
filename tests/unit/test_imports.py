"""Imports: what each source becomes, and that a second time takes nothing."""

import csv
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.exporting import box_of, chat, exported, store
from support.records import make_result, new_database

from edge_store.chain import verify_chain
from edge_store.errors import DiskFull, ImportFailed
from edge_store.exports.lines import LineOf
from edge_store.imports import jsonl, litellm, llm
from edge_store.imports.batches import TOLD_MAX, Counts, Importing
from edge_store.imports.sourced import Fault, Source, Sourced, made, moment, named, result_id
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import end_boot
from edge_store.recorder.deletions import Reason, What, delete_here
from edge_store.recorder.disk import Disk
from edge_store.recorder.intake import BootOfItsOwn, Intake, Take
from edge_store.recorder.transactions import in_transaction
from edge_store.result import JsonState, Operation, Result, Status
from edge_store.sqlite import Connection, check_integrity

GOLDEN = Path(__file__).parent.parent / "golden" / "llm"

Json = dict[str, Any]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[tuple[Path, Connection]]:
    """One whose daemon ran, and has stopped."""
    path = tmp_path / "results.db"
    connection, boot = box_of(path, 3)
    end_boot(connection, boot)
    yield path, connection
    connection.close()


def take_all(box: tuple[Path, Connection], source: Source, **more: Any) -> tuple[Counts, list[str]]:
    """As the command does it while the daemon is stopped."""
    path, connection = box
    told: list[str] = []
    boot = BootOfItsOwn(connection, Disk(path, 0), "test")
    more = {"tenant": None, "faults_max": 100, "said": told.append, **more}
    try:
        importing = Importing(boot.take, lambda result: result, **more)
        return importing.run(source, lambda _read, _taken: None), told
    finally:
        boot.end()
        source.close()


def results_of(source: Source) -> list[Result]:
    found = list(source.rows)
    source.close()
    assert all(isinstance(row, Sourced) for row in found), found
    return [row.result for row in found if isinstance(row, Sourced)]


def completeness(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT state, admitted, completed + failed, percent FROM completeness ORDER BY boot_no"
    ).fetchall()


def rows_of(connection: Connection) -> list[Json]:
    cursor = connection.execute("SELECT * FROM results ORDER BY seq")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def everything(connection: Connection) -> list[list[tuple[Any, ...]]]:
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return [connection.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in tables]


def llm_log(tmp_path: Path, version: str) -> Path:
    path = tmp_path / f"{version}.db"
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / f"{version}.sql").read_text(encoding="utf-8"))
    connection.close()
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """An export of another box, with a pin and a deletion."""
    connection, _ = box_of(tmp_path / "other.db", 300)
    (name,) = connection.execute("SELECT id FROM results WHERE seq = 7").fetchone()
    for at, value in ((5, "true"), (6, "false"), (7, "true")):
        connection.execute("INSERT INTO annotations (at, id, kind, value) VALUES (?, ?, 'pin', ?)",
                           (at, name, value))  # fmt: skip
    connection.execute(
        "INSERT INTO repairs (at, id, choice_index, output_json, json_state, repairer) "
        "VALUES (9, ?, 0, '{}', 'repaired', 'r 1')", (name,))  # fmt: skip
    connection.close()
    exported(tmp_path / "other.db", tmp_path / "all.jsonl", "jsonl", bodies=True)
    return tmp_path / "all.jsonl"


def test_an_import_is_a_boot_of_its_own_and_the_box_stays_true(
    box: tuple[Path, Connection], lines: Path
) -> None:
    _, connection = box
    counts, _ = take_all(box, jsonl.open_source(str(lines), None))

    assert (counts.read, counts.taken, counts.known) == (300, 300, 0)
    assert completeness(connection) == [("ended", 3, 3, 100.0), ("ended", 300, 300, 100.0)]
    boots = connection.execute("SELECT engine, engine_version FROM boots ORDER BY boot_no")
    assert boots.fetchall()[2:] == [("import", "test")] * 2
    assert verify_chain(connection).faults == ()
    assert check_integrity(connection) == "ok"
    assert {row["engine"] for row in rows_of(connection)[3:]} == {"import:demo"}


def test_a_second_time_takes_nothing_and_makes_no_boot(
    box: tuple[Path, Connection], lines: Path
) -> None:
    _, connection = box
    take_all(box, jsonl.open_source(str(lines), None))
    before = everything(connection)
    counts, _ = take_all(box, jsonl.open_source(str(lines), None))
    assert (counts.taken, counts.known) == (0, 300)
    assert everything(connection) == before


def test_what_was_said_of_a_result_comes_along_once(
    box: tuple[Path, Connection], lines: Path
) -> None:
    for _ in range(2):
        take_all(box, jsonl.open_source(str(lines), None))
    pins = box[1].execute("SELECT at, kind, value FROM annotations ORDER BY annotation_id")
    assert pins.fetchall() == [(5, "pin", "true"), (6, "pin", "false"), (7, "pin", "true")]
    repairs = box[1].execute("SELECT at, output_json, repairer FROM repairs").fetchall()
    assert repairs == [(9, "{}", "r 1")]


def test_what_was_deleted_here_does_not_come_back(
    box: tuple[Path, Connection], lines: Path
) -> None:
    _, connection = box
    take_all(box, jsonl.open_source(str(lines), None))
    gone = rows_of(connection)[10]
    in_transaction(connection, delete_here, [gone["seq"]], Reason.FORGET, What.RESULT)
    counts, _ = take_all(box, jsonl.open_source(str(lines), None))
    assert (counts.taken, counts.known, counts.deleted) == (0, 299, 1)
    assert verify_chain(connection).faults == ()


def test_a_malformed_row_is_told_with_its_number_and_the_others_are_taken(
    box: tuple[Path, Connection], lines: Path
) -> None:
    good = lines.read_bytes().splitlines(keepends=True)
    broken = json.loads(good[4])
    broken.pop("digest")
    faults = {
        2: b'{"half": \n',
        4: json.dumps({**broken, "status": "odd"}).encode() + b"\n",
        5: json.dumps({**broken, "params": "{'no': json}"}).encode() + b"\n",
        6: json.dumps({**broken, "created_at": -1}).encode() + b"\n",
        7: json.dumps({**broken, "id": "x" * 36}).encode() + b"\n",
        9: b"\xff\n",
    }
    lines.write_bytes(b"".join(faults.get(n, line) for n, line in enumerate(good, 1)))
    counts, told = take_all(box, jsonl.open_source(str(lines), None))
    assert (counts.taken, counts.faults) == (294, 6)
    known = "it can be cancelled, completed, failed, incomplete"
    why = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert told == [
        "line 2: it is not JSON: it ends too early",
        f"line 4: `status` = 'odd' is not supported here: {known}",
        f"""line 5: its params, "{{'no': json}}", is no JSON: {why}""",
        "line 6: its created_at, -1, is in no year from 1970 to 9999",
        f"line 7: its id, '{'x' * 36}', is no UUID",
        "line 9: it is not JSON: invalid character (byte 0)",
    ]
    assert completeness(box[1])[1] == ("ended", 294, 294, 100.0)


def test_too_many_malformed_rows_end_an_import(box: tuple[Path, Connection]) -> None:
    source = Source(None, iter([Fault(n, "odd") for n in range(1, 9)]))
    said = "4 rows are malformed, and --faults-max is 3; the last one is row 4: odd"
    with pytest.raises(ImportFailed, match=said):
        take_all(box, source, faults_max=3)


def test_the_first_malformed_rows_are_told_and_all_are_counted(
    box: tuple[Path, Connection],
) -> None:
    source = Source(None, iter([Fault(n, "odd") for n in range(1, 61)]))
    counts, told = take_all(box, source)
    assert counts.faults == 60
    assert told == [*(f"row {n}: odd" for n in range(1, TOLD_MAX + 1)), f"and {60 - TOLD_MAX} more"]
    told.clear()
    source = Source(None, iter([Fault(n, "odd") for n in range(1, 61)]))
    with pytest.raises(ImportFailed, match="31 rows are malformed"):
        take_all(box, source, faults_max=30, said=told.append)
    assert told[-1] == f"and {31 - TOLD_MAX} more"


def test_an_import_leaves_the_room_that_is_reserved_for_results(
    box: tuple[Path, Connection], lines: Path
) -> None:
    path, connection = box
    boot = BootOfItsOwn(connection, Disk(path, 2**62), "test")
    with pytest.raises(DiskFull):
        boot.take(Take(results=tuple(results_of(jsonl.open_source(str(lines), None)))[:5]))
    boot.end()
    assert len(rows_of(connection)) == 3


async def test_a_daemon_leaves_the_room_that_is_reserved_for_results(
    box: tuple[Path, Connection], lines: Path
) -> None:
    asked = Take(results=tuple(results_of(jsonl.open_source(str(lines), None)))[:5])
    refused = Intake(cast("Any", None), cast("Any", None), Disk(box[0], 2**62))
    with pytest.raises(DiskFull):
        await refused.take(asked)


def test_a_row_that_a_source_has_twice_is_taken_once(
    box: tuple[Path, Connection], lines: Path
) -> None:
    first = lines.read_bytes().splitlines(keepends=True)[0]
    lines.write_bytes(2 * first)
    counts, _ = take_all(box, jsonl.open_source(str(lines), None))
    assert (counts.taken, counts.known) == (1, 1)
    assert completeness(box[1])[1] == ("ended", 1, 1, 100.0)


def test_a_line_of_a_batch_is_completed_once(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    connection, boot = new_database(path)
    store(connection, boot, [chat(1, boot, batch_id="b", custom_id="c")])
    end_boot(connection, boot)
    again = [chat(n, boot, batch_id="b", custom_id=c) for n, c in ((1, "c"), (2, "d"), (3, "d"))]
    rows = iter([Sourced(n, result) for n, result in enumerate(again, 1)])
    counts, told = take_all((path, connection), Source(3, rows))
    assert (counts.taken, counts.refused) == (1, 2)
    assert told == [
        f"row {n}: its custom_id, {name!r}, has a result in its batch already"
        for n, name in ((1, "c"), (3, "d"))
    ]
    assert verify_chain(connection).faults == ()
    assert completeness(connection)[1] == ("ended", 1, 1, 100.0)
    connection.close()


def test_ids_are_of_their_time_and_the_same_each_time() -> None:
    at = 1_700_000_000_123
    name = result_id("llm", "a", at)
    assert name == result_id("llm", "a", at)
    assert name != result_id("llm", "b", at) != result_id("litellm", "b", at)
    assert int(name.replace("-", "")[:12], 16) == at
    assert (name[14], name[19] in "89ab") == ("7", True)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-11-30 08:00:00.123", 1_796_025_600_123),
        ("2026-11-30T08:00:00.123Z", 1_796_025_600_123),
        ("2026-11-30T09:00:00.123456+01:00", 1_796_025_600_123),
        ("1970-01-01", 0),
    ],
)
def test_times_without_a_zone_are_utc(text: str, milliseconds: int) -> None:
    assert moment(text, "at") == milliseconds


def test_a_tenant_is_given_to_what_is_nobodys() -> None:
    result = made("llm", "a", created_at=1, body=b"")
    assert named(result, "t").tenant == "t"
    theirs = named(result, "t")
    assert named(theirs, "u").tenant == "t"
    assert named(theirs, "u").engine == "import:llm"


def test_llms_logs_of_today_become_chats(tmp_path: Path) -> None:
    source = llm.open_source(str(llm_log(tmp_path, "0.36")), None)
    assert source.total == 8
    plain, _first, second, dog, novel, image, call, told = results_of(source)
    asked = [json.loads(each.content.request_body) for each in (plain, second, image, told)]
    assert [message["role"] for message in asked[0]["messages"]] == ["system", "user"]
    assert (asked[0]["temperature"], json.loads(plain.params)) == (0.5, {"temperature": 0.5})
    assert [m["content"] for m in asked[1]["messages"]] == ["first", "told: first 你好", "second"]
    assert asked[2]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;")
    assert [m["role"] for m in asked[3]["messages"]] == ["user", "assistant", "tool"]
    assert asked[3]["messages"][2] == {"role": "tool", "tool_call_id": "c1", "content": "HÉ"}
    (output,) = dog.outputs
    assert (output.json_state, output.output_json) == (JsonState.VALID, '{"dog": "Rex"}')
    assert (novel.content.input_text or "").startswith("a novel\na novel\na novel\n")
    (calls,) = json.loads(call.outputs[0].tool_calls or "")
    assert (calls["function"]["name"], json.loads(calls["function"]["arguments"])) == (
        "upper", {"text": "hé"})  # fmt: skip
    assert (plain.outputs[0].output_text, plain.input_tokens, plain.output_tokens) == (
        "told: plain 你好", 7, 3)  # fmt: skip
    assert second.conversation_id == _first.conversation_id


def test_llms_logs_of_before_are_read_too(tmp_path: Path, box: tuple[Path, Connection]) -> None:
    log = str(llm_log(tmp_path, "0.27"))
    found = results_of(llm.open_source(log, None))
    assert found[0].outputs[0].output_text == "told: plain 你好"
    assert len(json.loads(found[6].outputs[0].tool_calls or "")) == 1
    counts, told = take_all(box, llm.open_source(log, None))
    assert (counts.taken, told) == (8, [])
    assert completeness(box[1])[1] == ("ended", 8, 8, 100.0)


def test_what_is_no_log_of_llms_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database")
    for name in ("text", "absent"):
        with pytest.raises(ImportFailed):
            llm.open_source(str(tmp_path / name), None)


SPENT: Json = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "88dc",
    "spend": 0.25,
    "prompt_tokens": 11,
    "completion_tokens": 4,
    "startTime": "2026-05-01T10:00:00.500",
    "endTime": "2026-05-01T10:00:02.500",
    "completionStartTime": "2026-05-01T10:00:01.000",
    "model": "gpt-4o",
    "model_group": "gpt",
    "user": "u1",
    "end_user": "",
    "session_id": "s1",
    "team_id": "t1",
    "metadata": {},
    "messages": [{"role": "user", "content": "hi\n你好"}],
    "response": {"choices": [{"index": 0, "finish_reason": "stop",
                              "message": {"role": "assistant", "content": "ho"}}]},
    "status": "success",
}  # fmt: skip
FAILED: Json = {
    **SPENT, "request_id": "2", "status": "failure", "messages": {}, "response": {},
    "metadata": {"error_information": {"error_code": "429", "error_class": "RateLimit",
                                       "error_message": "slow down"}},
}  # fmt: skip
EMBEDDED: Json = {**SPENT, "request_id": "3", "call_type": "aembedding", "messages": "text"}
ODD: Json = {**SPENT, "request_id": "4", "call_type": "aimage_generation"}


def spend_logs(tmp_path: Path, suffix: str) -> Path:
    path = tmp_path / f"spend.{suffix}"
    rows = [SPENT, FAILED, EMBEDDED, ODD]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SPENT.keys())
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
            for row in rows
        )
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_spend_logs_become_results_with_their_times_and_counts(tmp_path: Path, suffix: str) -> None:
    source = litellm.open_source(str(spend_logs(tmp_path, suffix)), None)
    spent, failed, embedded, odd = source.rows
    source.close()
    assert isinstance(odd, Fault)
    assert "aimage_generation" in odd.why
    assert isinstance(spent, Sourced)
    result = spent.result
    assert (result.created_at, result.latency_ms, result.ttft_ms) == (
        1_777_629_600_500, 2000.0, 500.0)  # fmt: skip
    assert (result.input_tokens, result.output_tokens, result.stream) == (11, 4, True)
    assert (result.request_model, result.response_model) == ("gpt", "gpt-4o")
    assert json.loads(result.content.request_body)["messages"] == SPENT["messages"]
    assert (result.outputs[0].output_text, result.content.input_text) == ("ho", "hi\n你好")
    kept = json.loads(result.metadata or "")
    assert (kept["source_id"], kept["team_id"], float(kept["spend"])) == ("chatcmpl-1", "t1", 0.25)
    assert (result.user_id, result.conversation_id) == ("u1", "s1")
    assert isinstance(failed, Sourced)
    assert (failed.result.status, failed.result.http_status, failed.result.error_message) == (
        Status.FAILED, 429, "RateLimit: slow down")  # fmt: skip
    assert isinstance(embedded, Sourced)
    assert (embedded.result.operation, embedded.result.endpoint) == (
        Operation.EMBEDDINGS, "/v1/embeddings")  # fmt: skip


def test_spend_logs_are_taken_once_whichever_way_they_come(
    tmp_path: Path, box: tuple[Path, Connection]
) -> None:
    for suffix, taken in (("csv", 3), ("jsonl", 0)):
        source = litellm.open_source(str(spend_logs(tmp_path, suffix)), None)
        assert take_all(box, source)[0].taken == taken
    assert verify_chain(box[1]).faults == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": 5, "model_group": None},
            "`request_model` must be a string or null, not a whole number: it is 5",
        ),
        (
            {"session_id": 7},
            "`conversation_id` must be a string or null, not a whole number: it is 7",
        ),
        ({"end_user": ["x"]}, "`user_id` must be a string or null, not an array: it is ['x']"),
        (
            {"response": {"choices": [{"text": "x", "finish_reason": 3}]}},
            "`finish_reason` must be a string or null, not a whole number: it is 3",
        ),
        (
            {"response": {"choices": [{"message": {"reasoning_content": {"a": 1}}}]}},
            "`reasoning` must be a string or null, not an object: it is {'a': 1}",
        ),
        ({"startTime": None}, "it has no startTime"),
        ({"startTime": "noon"}, "its startTime, 'noon', is no time as 2026-11-30 08:00:00"),
        ({"endTime": 5}, "its endTime, 5, is no time as 2026-11-30 08:00:00"),
        ({"startTime": "1066-10-14"}, "its startTime, '1066-10-14 00:00:00', is in no year"),
        ({"prompt_tokens": "many"}, "its prompt_tokens, 'many', is no number of at least 0"),
        ({"request_id": ""}, "it has no request_id"),
        (
            {"response": {"choices": [{"message": "x"}]}},
            "it is built otherwise than a row of that kind: 'str' object has no",
        ),
    ],
)
def test_a_value_of_another_type_is_a_fault_of_its_row_and_of_no_digest(
    tmp_path: Path, box: tuple[Path, Connection], changes: Json, said: str
) -> None:
    """A number in a column of text is read as a text: its row would look like a changed one."""
    path = tmp_path / "spend.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({**SPENT, **changes}, FAILED)))
    counts, told = take_all(box, litellm.open_source(str(path), None))
    assert (counts.taken, counts.faults, counts.refused) == (1, 1, 0)
    assert told[0].startswith(f"line 1: {said}")
    assert verify_chain(box[1]).faults == ()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_byte_order_mark_belongs_to_no_row(tmp_path: Path, suffix: str) -> None:
    path = spend_logs(tmp_path, suffix)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    source = litellm.open_source(str(path), None)
    assert isinstance(next(source.rows), Sourced)
    source.close()


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_rows_is_told_as_one(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "spend.json"
    path.write_text(json.dumps([SPENT, FAILED], indent=indent))
    source = litellm.open_source(str(path), None)
    with pytest.raises(ImportFailed, match="one JSON array") as caught:
        list(source.rows)
    assert "jq -c" in caught.value.hint
    source.close()


def test_a_file_without_lines_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LINE_BYTES_MAX", 1024)
    path = tmp_path / "zeros"
    path.write_bytes(bytes(4096))
    source = jsonl.open_source(str(path), None)
    with pytest.raises(ImportFailed, match="line 1 is longer than 1024 bytes"):
        list(source.rows)
    source.close()


def test_a_compressed_export_is_read_as_it_is(tmp_path: Path, lines: Path) -> None:
    import gzip  # noqa: PLC0415

    import zstandard  # noqa: PLC0415

    content = lines.read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content))
    whole = results_of(jsonl.open_source(str(lines), None))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert results_of(jsonl.open_source(str(tmp_path / name), None)) == whole
    assert LineOf()(content.splitlines()[0])[0] == whole[0]


def test_a_number_beyond_64_bits_is_a_fault_of_its_row() -> None:
    result = made("x", "1", created_at=1, body=b"", input_tokens=2**63)
    with pytest.raises(ValueError, match=f"its input_tokens, {2**63}, is beyond 64 bits"):
        named(result, None)


NOT_TAKEN = {
    "its input_tokens, -5, is below 0": {"input_tokens": -5},
    "its latency_ms, -1.5, is below 0": {"latency_ms": -1.5},
    r"its request_model, 'a\x1b[31m', has the control character U+001B":
        {"request_model": "a\x1b[31m"},
    r"its response_model, 'a\x7f', has the control character U+007F": {"response_model": "a\x7f"},
    r"its tenant, 't\x00', has the control character U+0000": {"tenant": "t\0"},
    r"its user_id, '\x9b31m', has the control character U+009B": {"user_id": "\x9b31m"},
}  # fmt: skip


def test_numbers_and_names_that_no_result_has_are_faults_of_their_lines(
    box: tuple[Path, Connection], lines: Path, tmp_path: Path
) -> None:
    whole = [json.loads(line) for line in lines.read_text().splitlines()]
    for line, changed in zip(whole, NOT_TAKEN.values(), strict=False):
        line.pop("digest")
        line.update(changed)
    whole[len(NOT_TAKEN)].pop("digest")
    whole[len(NOT_TAKEN)]["user_id"] = "tab\tand\nline"  # which a terminal is not led astray by
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in whole))
    counts, told = take_all(box, jsonl.open_source(str(path), None))
    assert told == [f"line {number}: {why}" for number, why in enumerate(NOT_TAKEN, 1)]
    assert (counts.faults, counts.taken) == (len(NOT_TAKEN), len(whole) - len(NOT_TAKEN))
    assert verify_chain(box[1]).faults == ()


def test_what_a_box_has_recorded_is_taken_with_its_names(
    box: tuple[Path, Connection], tmp_path: Path
) -> None:
    connection, boot = new_database(tmp_path / "odd.db")
    odd = make_result(1, boot.boot_id, user_id="\x1b[31m", input_tokens=-1)
    write_batch(connection, boot, read_head(connection), 1, [odd])
    connection.close()
    exported(tmp_path / "odd.db", tmp_path / "odd.jsonl", "jsonl", bodies=True)
    counts, told = take_all(box, jsonl.open_source(str(tmp_path / "odd.jsonl"), None))
    assert (counts.taken, told) == (1, [])


def test_a_whole_number_becomes_what_its_column_holds() -> None:
    """Else its digest would be taken of another type than is read back."""
    assert isinstance(made("x", "1", created_at=1, body=b"", ttft_ms=5).ttft_ms, float)


def test_what_another_has_is_looked_at() -> None:
    with pytest.raises(ValueError, match="its output_tokens, -1, is below 0"):
        made("x", "1", created_at=1, body=b"", output_tokens=-1)
    with pytest.raises(ValueError, match="its user_id"):
        made("x", "1", created_at=1, body=b"", user_id="\x1b")


def test_a_tenant_of_the_command_line_is_looked_at_too() -> None:
    with pytest.raises(ValueError, match="its tenant"):
        named(made("x", "1", created_at=1, body=b""), "a\x1b")


@pytest.mark.parametrize(
    "changed",
    [
        {"output_tokens": 77},
        {"input_text": "another"},
        {"request_body": "{}"},
        {"seq": 4711},
        {"outputs": []},
        {"digest": "zz"},
        {"digest": ""},
    ],
)
def test_a_line_that_was_changed_is_not_taken_but_without_its_digest(
    box: tuple[Path, Connection], lines: Path, tmp_path: Path, changed: Json
) -> None:
    first, second, *_ = [json.loads(line) for line in lines.read_text().splitlines()]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ({**first, **changed}, second)))
    counts, (told,) = take_all(box, jsonl.open_source(str(path), None))
    assert (counts.faults, counts.taken) == (1, 1)
    assert told.startswith("line 1: its digest, ")
    first.pop("digest")
    path.write_text(json.dumps({**first, **changed, "digest": None}) + "\n")
    counts, told_then = take_all(box, jsonl.open_source(str(path), None))
    assert (counts.taken, told_then) == (1, [])


def test_a_line_without_bodies_is_taken_though_its_digest_cannot_be_taken_again(
    box: tuple[Path, Connection], tmp_path: Path, lines: Path
) -> None:
    del lines
    exported(tmp_path / "other.db", tmp_path / "few.jsonl", "jsonl")
    counts, told = take_all(box, jsonl.open_source(str(tmp_path / "few.jsonl"), None))
    assert (counts.taken, told) == (300, [])


def test_a_row_of_csv_is_told_with_the_line_that_it_begins_in(
    tmp_path: Path, box: tuple[Path, Connection]
) -> None:
    path = tmp_path / "spend.csv"
    asked = '"two\nlines"'
    path.write_text(
        "\nrequest_id,call_type,startTime,messages\n"
        f"a,completion,2026-05-01,{asked}\n\n\n"
        f"b,completion,,{asked}\n"
        f"c,completion,2026-05-01,{asked}\n"
        f"d,completion,noon,{asked}\n"
    )
    counts, told = take_all(box, litellm.open_source(str(path), None))
    assert (counts.taken, counts.faults) == (2, 2)
    assert told == [
        "line 7: it has no startTime",
        "line 11: its startTime, 'noon', is no time as 2026-11-30 08:00:00",
    ]


def test_json_in_a_column_of_llms_is_told_with_its_column(
    tmp_path: Path, box: tuple[Path, Connection]
) -> None:
    path = llm_log(tmp_path, "0.27")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE responses SET options_json = '{odd' WHERE rowid = 1")
        connection.execute("UPDATE responses SET datetime_utc = NULL WHERE rowid = 2")
    connection.close()
    counts, told = take_all(box, llm.open_source(str(path), None))
    assert (counts.taken, counts.faults) == (6, 2)
    assert sorted(text.partition(": ")[2] for text in told) == [
        "it has no datetime_utc",
        "its options_json, '{odd', is no JSON",
    ]
