"""What `edge-store logs` shows: the newest of a selection, one result, what comes, what differs."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.records import make_result, new_database
from support.terminal import on_terminal

from edge_store.cli.logs_text import printable
from edge_store.cli.main import cli
from edge_store.errors import InvalidRequest, NotFound
from edge_store.forget.choice import Who, choose
from edge_store.ids import ResultId
from edge_store.logs import follow
from edge_store.logs import newest as newest_rows
from edge_store.logs.compare import differences, differing_answers
from edge_store.logs.find import find_id, is_pinned, load, repaired, short_ids
from edge_store.logs.follow import Follower
from edge_store.logs.newest import COLUMNS, newest
from edge_store.logs.pins import Pin, pin
from edge_store.logs.replay import route_of
from edge_store.logs.turns import turns_of
from edge_store.recorder.boot import begin_boot
from edge_store.result import Content, JsonState, Operation, Output, Result, Status
from edge_store.rows import insert_rows, to_row
from edge_store.selection import Selection
from edge_store.sqlite import Connection, driver, open_reader, open_writer

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOW = 1_760_000_000_000
EVERYTHING = Selection()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    connection, _ = new_database(tmp_path / "results.db")
    yield connection
    connection.close()


def store(connection: Connection, *results: Result, first: int = 1, timeline: str = "t") -> None:
    insert_rows(
        connection, [to_row(seq, timeline, each) for seq, each in enumerate(results, first)]
    )


def asked(**body: Any) -> Content:
    return Content(input_text=None, request_body=json.dumps(body).encode(), response_body=b"{}")


def column(rows: list[tuple[Any, ...]], name: str) -> list[Any]:
    return [row[COLUMNS.index(name)] for row in rows]


def scattered(number: int) -> list[Result]:
    """Over months, in no order: as after imports, and with a clock that stepped."""
    rng = random.Random(5)
    ages = [rng.choice((900, 40_000, 5 * HOUR_MS, 90 * DAY_MS)) for _ in range(number)]
    return [
        make_result(
            n,
            created_at=NOW - rng.randrange(age),
            request_model=rng.choice(("a", "b", None)),
            response_model=rng.choice(("a", "c", None)),
            status=rng.choice((Status.COMPLETED, Status.FAILED)),
            operation=rng.choice((Operation.CHAT, Operation.CHAT, Operation.PREFIX_CACHE)),
            tenant=rng.choice(("key-1", None)),
        )
        for n, age in enumerate(ages, 1)
    ]


@pytest.mark.parametrize(
    "selection",
    [
        EVERYTHING,
        Selection(model="c"),
        Selection(status=Status.FAILED, tenant="key-1"),
        Selection(since=NOW - 20_000),
        Selection(since=NOW - 30 * DAY_MS, until=NOW - DAY_MS),
        Selection(until=NOW - 100),
        Selection(user="nobody"),
    ],
    ids=repr,
)
def test_the_newest_are_those_admitted_last(connection: Connection, selection: Selection) -> None:
    store(connection, *scattered(300))
    statement = (
        f"SELECT r.seq FROM results AS r WHERE {selection.condition} "
        "AND r.operation <> 'prefix_cache' ORDER BY r.created_at DESC, r.seq DESC"
    )
    expected = [seq for (seq,) in connection.execute(statement, selection.values)]
    for limit in (1, 7, 1000):
        found = newest(connection, selection, limit)
        assert column(found.rows, "seq") == expected[:limit]
        assert found.is_cut == (len(expected) > limit)


def test_what_made_no_output_is_listed_when_it_is_asked_for(connection: Connection) -> None:
    store(connection, make_result(1), make_result(2, operation=Operation.PREFIX_CACHE))
    found = newest(connection, Selection(operation=Operation.PREFIX_CACHE), 5)
    assert column(found.rows, "seq") == [2]


def test_the_newest_few_are_found_without_reading_what_is_older(connection: Connection) -> None:
    store(connection, *(make_result(n, created_at=NOW + n * 60_000) for n in range(2000)))
    plans: list[str] = []
    connection.set_trace_callback(plans.append)
    assert len(newest(connection, Selection(status=Status.COMPLETED), 5).rows) == 5
    connection.set_trace_callback(None)
    windows = [text for text in plans if "window_from" in text or "r.created_at >=" in text]
    reached = newest(connection, EVERYTHING, 5).rows[-1]
    assert 0 < len(windows) < 8  # 1 s, 4 s, 16 s, … until five minutes
    assert reached[0] == 1996
    for text in windows:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()
        assert any("results_by_model_and_hour (<expr>=? AND <expr>" in row[3] for row in plan)


def test_a_conversation_is_listed_by_what_was_said_last(connection: Connection) -> None:
    content = Content(
        input_text="system: be brief\nuser: one\nassistant: 1\nuser: and two?",
        request_body=b"{}",
        response_body=b"{}",
    )
    store(connection, make_result(1, content=content), make_result(2))
    assert column(newest(connection, EVERYTHING, 5).rows, "prompt") == ["hello", "and two?"]


@pytest.mark.parametrize(
    ("asked_for", "answer", "listed"),
    [
        ("system: s\0\nuser: one\0two", "said\0more", ("one\0two", "said\0more")),
        ("\0", "\0", ("\0", "\0")),
        ("é" * 500, "漢" * 500, ("é" * 300, "漢" * 300)),
        ("🎉" * 4000 + "\nuser: ja", "🎉" * 299 + "ab", ("ja", "🎉" * 299 + "a")),
        ("", "", ("", None)),
    ],
)
def test_a_line_has_whole_characters_and_what_is_behind_a_nul(
    connection: Connection, asked_for: str, answer: str, listed: tuple[str, str | None]
) -> None:
    content = Content(input_text=asked_for, request_body=b"{}", response_body=b"{}")
    outputs = (Output(choice_index=0, output_text=answer),)
    store(connection, make_result(1, content=content, outputs=outputs))
    rows = newest(connection, EVERYTHING, 1).rows
    assert (column(rows, "prompt"), column(rows, "answer")) == ([listed[0]], [listed[1]])


def ids(*texts: str) -> list[Result]:
    return [make_result(n, id=ResultId(text)) for n, text in enumerate(texts, 1)]


ONE, TWO = "0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55", "0190d3e1-7c1f-7a5f-9d4c-0a4b6f2f7c55"


def test_an_id_is_found_by_a_beginning_that_is_its_own(connection: Connection) -> None:
    store(connection, *ids(ONE, TWO))
    for text in (ONE, ONE.upper(), f"resp_{ONE}", ONE[:18]):
        assert find_id(connection, text) == ONE
    with pytest.raises(InvalidRequest, match="several"):
        find_id(connection, ONE[:17])
    with pytest.raises(NotFound):
        find_id(connection, "0190d3e2")
    for text in ("", "%", "0190d3e1-7c1f-7a5e-9d4c-0a4b6f2f7c55a", "x"):
        with pytest.raises(InvalidRequest, match="not the id"):
            find_id(connection, text)


def test_short_ids_lead_to_their_results(connection: Connection) -> None:
    store(connection, *ids(ONE, TWO, "01a2a5e1-7c1f-7a5f-9d4c-0a4b6f2f7c55"))
    shorts = short_ids(connection, [ONE, "01a2a5e1-7c1f-7a5f-9d4c-0a4b6f2f7c55"])
    assert shorts == ["0190d3e1-7c1f-7a5e", "01a2a5e1-7c1f-7a5f"]
    assert find_id(connection, shorts[0]) == ONE


def test_a_result_is_shown_as_its_newest_repair_has_it(connection: Connection) -> None:
    result = make_result(
        1, outputs=(Output(choice_index=0, output_text="{", json_state=JsonState.INVALID),)
    )
    store(connection, result)
    for state in ("truncated", "repaired"):
        connection.execute(
            "INSERT INTO repairs (at, id, choice_index, output_json, json_state, repairer) "
            "VALUES (1, ?, 0, '{}', ?, 'r 2')",
            (result.id, state),
        )
    (output,) = repaired(connection, load(connection, result.id).result)
    assert (output.output_text, output.output_json, output.json_state) == ("{", "{}", "repaired")


@pytest.mark.parametrize(
    ("body", "turns"),
    [
        (
            {"messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:,"}},
                ]},
                {"role": "assistant", "tool_calls": [
                    {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}},
                ]},
                {"role": "tool", "content": "42"},
            ]},
            [
                ("system", "s"),
                ("user", "look\n[image_url, 49 bytes]"),
                ("assistant", '→ f({"a":1})'),
                ("tool", "42"),
            ],
        ),
        (
            {"system": "s", "messages": [
                {"role": "user", "content": [{"type": "tool_result", "content": "ok"}]},
            ]},
            [("system", "s"), ("user", "← ok")],
        ),
        ({"prompt": ["a", "b"]}, [("prompt", "a\nb")]),
        ({"text": "t"}, [("prompt", "t")]),
        ({"input": [{"role": "user", "content": "i"}]}, [("user", "i")]),
        ({"input": ["x", "y"]}, [("prompt", "x\ny")]),
        ({}, []),
    ],
)  # fmt: skip
def test_every_protocol_is_read_as_turns(
    body: dict[str, Any], turns: list[tuple[str, str]]
) -> None:
    found = turns_of(make_result(1, content=asked(**body)))
    assert [(turn.role, turn.text) for turn in found] == turns


def test_without_its_body_the_prompt_is_shown_as_text() -> None:
    content = Content(input_text="the prompt", request_body=b"", response_body=b"")
    assert [turn.text for turn in turns_of(make_result(1, content=content))] == ["the prompt"]


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("\x1b]0;x\x07\x9b2J \u202egnp.exe\r\n\tok 👩‍💻 日本") == (
        "�]0;x��2J �gnp.exe\n\tok 👩‍💻 日本"
    )


def test_what_a_model_wrote_does_not_reach_a_terminal_as_an_escape(
    connection: Connection, tmp_path: Path
) -> None:
    evil = "\x1b]0;owned\x07 and \x1b[2J"
    outputs = (Output(choice_index=0, output_text=evil, reasoning=evil),)
    content = asked(messages=[{"role": "user", "content": evil}])
    result = make_result(
        1, outputs=outputs, content=content, response_model=f"{evil}\n12:00 a line of ours"
    )
    store(connection, result)
    command = f"{sys.executable} -m edge_store logs"
    code, shown = on_terminal(
        ["sh", "-c", f"{command} show 01 --db $0 && {command} tail --db $0",
         str(tmp_path / "results.db")],
        {**os.environ, "TERM": "xterm"},
        columns=120,
    )  # fmt: skip
    assert code == 0, shown
    assert shown.count("owned") == 6
    assert "\n12:00" not in shown.partition("receipt")[2], "a list has a line for each"
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown


def followed(path: Path, selection: Selection = EVERYTHING) -> tuple[Follower, list[str]]:
    said: list[str] = []
    return Follower(path, selection, said.append), said


def texts(follower: Follower) -> list[str]:
    found = []
    for _ in range(5):
        found += [str(row[COLUMNS.index("answer")]) for row in follower.look()]
    return found


def copied(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    reader, written = open_reader(path), driver.connect(str(copy))
    reader.backup(written)
    reader.close()
    written.close()
    return copy


def test_what_comes_is_followed_once(connection: Connection, tmp_path: Path) -> None:
    store(connection, make_result(1))
    follower, _ = followed(tmp_path / "results.db")
    assert texts(follower) == []
    store(connection, make_result(2), make_result(3), first=2)
    assert texts(follower) == ["answer 2", "answer 3"]
    assert texts(follower) == []


def test_what_is_not_selected_is_passed_over(connection: Connection, tmp_path: Path) -> None:
    follower, _ = followed(tmp_path / "results.db", Selection(status=Status.FAILED))
    store(connection, *(make_result(n) for n in range(1, 2100)))
    store(connection, make_result(7, status=Status.FAILED), first=2100)
    assert texts(follower) == ["answer 7"]
    assert follower.after == 2100


def test_what_made_no_output_is_followed_when_it_is_asked_for(
    connection: Connection, tmp_path: Path
) -> None:
    every, _ = followed(tmp_path / "results.db")
    empty, _ = followed(tmp_path / "results.db", Selection(operation=Operation.PREFIX_CACHE))
    store(connection, make_result(1, operation=Operation.PREFIX_CACHE), make_result(2))
    assert (texts(every), texts(empty)) == (["answer 2"], ["answer 1"])


def test_nothing_is_held_between_two_looks(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    connection, _ = new_database(path)
    connection.close()
    ask = "from edge_store.sqlite import is_index_held; from pathlib import Path; import sys; "
    ask += "print(is_index_held(Path(sys.argv[1])))"

    def told() -> str:  # by a process that is not this one
        command = [sys.executable, "-c", ask, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    reader = open_reader(path)
    reader.execute("SELECT 1 FROM results").fetchone()
    assert told() == "True"
    reader.close()
    follower, _ = followed(path)
    follower.look()
    assert told() == "False"


def test_a_file_that_has_settled_is_not_read_again(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SETTLED_NS", -1)
    follower, _ = followed(tmp_path / "results.db")
    assert follower.look() == []
    monkeypatch.setattr(follow, "open_reader", None)
    assert follower.look() == []
    monkeypatch.undo()
    store(connection, make_result(1))
    assert texts(follower) == ["answer 1"]


def test_in_a_restored_file_the_new_timeline_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    connection, boot = new_database(path)
    store(connection, make_result(1), make_result(2), timeline=boot.timeline)
    copy = copied(path, "copy.db")
    follower, said = followed(path)
    store(connection, make_result(3), make_result(4), first=3, timeline=boot.timeline)
    assert texts(follower) == ["answer 3", "answer 4"]
    connection.close()
    for file in tmp_path.glob("results.db*"):
        file.unlink()
    assert texts(follower) == []
    restored = open_writer(copy)
    restored.execute(
        "INSERT INTO timelines (timeline, started_at, reason) VALUES ('t2', 1, 'restored')"
    )
    restored.close()
    copy.replace(path)
    assert texts(follower) == []
    restored = open_writer(path)
    begin_boot(restored, device_id=boot.device_id, version="0", engine="demo", engine_version="0")
    store(restored, make_result(30), first=3, timeline="t2")
    restored.close()
    assert texts(follower) == ["answer 30"]
    assert [text.partition(":")[0].replace(str(path), "FILE") for text in said] == [
        "waiting", "restored", "FILE is back",
    ]  # fmt: skip


def test_another_boxs_file_is_followed_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    first, boot = new_database(path)
    store(first, *(make_result(n) for n in range(1, 9)), timeline=boot.timeline)
    first.close()
    follower, said = followed(path)
    other, boot = new_database(tmp_path / "other.db")
    store(other, *(make_result(n) for n in range(1, 4)), timeline=boot.timeline)
    other.close()
    (tmp_path / "other.db").replace(path)
    assert texts(follower) == []
    assert said == [f"{path} is another database now: going on with what comes"]
    writer = open_writer(path)
    store(writer, make_result(4), first=4, timeline=boot.timeline)
    writer.close()
    assert texts(follower) == ["answer 4"]


def test_a_pin_is_said_once_and_taken_back(connection: Connection) -> None:
    results = [make_result(1), make_result(2)]
    store(connection, *results)
    both = tuple(result.id for result in results)
    assert pin(connection, Pin(ids=both)) == 2
    assert pin(connection, Pin(ids=both)) == 0
    assert is_pinned(connection, both[0])
    who = Who(None, None, 10.0, selection=Selection(pinned=True))
    assert choose(connection, who, None).pinned == list(both)
    assert pin(connection, Pin(ids=both[:1], is_pinned=False)) == 1
    assert not is_pinned(connection, both[0])
    with pytest.raises(NotFound):
        pin(connection, Pin(ids=("0190d3e1",)))


def test_results_are_chosen_to_be_forgotten_by_id_and_by_selection(connection: Connection) -> None:
    results = [make_result(1), make_result(2, status=Status.FAILED), make_result(3)]
    store(connection, *results)
    by_id = choose(connection, Who(None, None, 10.0, ids=(results[2].id, "no-such")), None)
    assert list(by_id.results) == [3]
    selected = Who(None, None, 10.0, selection=Selection(status=Status.FAILED))
    assert list(choose(connection, selected, None).results) == [2]


def answered(text: str, **changes: Any) -> Result:
    outputs = (Output(choice_index=0, output_text=text, finish_reason="stop"),)
    return make_result(1, **{"outputs": outputs, **changes})


def test_equal_results_do_not_differ() -> None:
    assert differences(answered("same"), answered("same")) == []


def test_what_differs_is_named() -> None:
    one = answered("a\nb", params='{"temperature":0.5,"seed":1}', content=asked(prompt="p"))
    other = answered("a\nc", params='{"temperature":0.5}', content=asked(prompt="q"), stream=True)
    found = {each.what: each.lines for each in differences(one, other)}
    assert found == {
        "prompt": ("@@ -1 +1 @@", "-p", "+q"),
        "parameters": ("seed: 1 → (none)", "stream: false → true"),
        "answer": ("@@ -1,2 +1,2 @@", " a", "-b", "+c"),
    }


def test_ids_of_tool_calls_are_no_difference() -> None:
    def called(name: str, arguments: str) -> tuple[Output, ...]:
        calls = [{"id": name, "function": {"name": "f", "arguments": arguments}}]
        return (Output(choice_index=0, output_text="", tool_calls=json.dumps(calls)),)

    assert differing_answers(called("call_1", "{}"), called("call_2", "{}")) == []
    assert differing_answers(called("call_1", "{}"), called("call_1", '{"a":1}')) != []


@pytest.mark.parametrize(
    "changes",
    [
        {"content": Content(input_text=None, request_body=b"", response_body=b"")},
        {"privacy": '{"email":1}'},
    ],
)
def test_what_is_not_stored_as_it_was_sent_is_not_replayed(changes: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="not stored"):
        route_of(make_result(1, **changes))


def test_what_a_caller_says_of_itself_cannot_look_like_lines_of_ours(tmp_path: Path) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    forged = "ann\n\nanswer (stop)\nyes, pay"
    result = make_result(
        1, boot.boot_id, user_id=forged, response_model=f"m\n{forged}", request_model="a\nb"
    )
    store(connection, result)
    connection.close()
    arguments = ["logs", "show", result.id, "--db", str(tmp_path / "results.db")]
    shown = CliRunner().invoke(cli, arguments).stdout.splitlines()
    assert "user: ann answer (stop) yes, pay" in shown
    assert "answer (stop)" not in shown
    assert "  m ann answer (stop) yes, pay (asked for: a b)  completed" in shown[1]


def test_tail_shows_as_many_as_are_asked_for_while_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    store(connection, *(make_result(n, boot.boot_id) for n in range(1, 6)))

    def meanwhile(*asked: Any, **more: Any) -> Any:
        store(connection, *(make_result(n, boot.boot_id) for n in range(6, 10)), first=6)
        return found(*asked, **more)

    found = newest_rows.newest
    monkeypatch.setattr(newest_rows, "newest", meanwhile)
    arguments = ["logs", "tail", "-n", "3", "--db", str(tmp_path / "results.db")]
    shown = CliRunner().invoke(cli, arguments).stdout.splitlines()
    assert [json.loads(line)["seq"] for line in shown] == [7, 8, 9]
    connection.close()


def test_query_without_sql_shows_as_many_as_are_asked_for(tmp_path: Path) -> None:
    connection, boot = new_database(tmp_path / "results.db")
    store(connection, *(make_result(n, boot.boot_id) for n in range(1, 41)))
    connection.close()
    asked = ["query", "--db", str(tmp_path / "results.db"), "--raw", "seq"]
    for more, count in (([], 20), (["-n", "3"], 3), (["-n", "30"], 30), (["-n", "50"], 40)):
        done = CliRunner().invoke(cli, [*asked, *more])
        assert done.stdout.split() == [str(seq) for seq in range(40, 40 - count, -1)]
        assert done.stderr == ""
