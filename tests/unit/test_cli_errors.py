"""What the command prints, and exits with, when something went wrong."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from support.records import new_database

from edge_store import exits
from edge_store.cli.fleet import fleet
from edge_store.cli.main import cli, main, report
from edge_store.cli.values import POSITIVE, SPAN, SPANS, bound
from edge_store.errors import (
    ConfigError,
    ImportFailed,
    NotAnEdgeStoreFile,
    NotFound,
    SinkFailed,
    StoreError,
)
from edge_store.ids import new_result_id
from edge_store.place import ZSTD_MAGIC
from edge_store.sinks.sink import UNREACHED_HINT, unreached


def test_error_from_nested_task_groups_exits_with_its_own_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = ConfigError("server.port = 'x'", hint="set another value")
    code = report(ExceptionGroup("outer", [ExceptionGroup("inner", [error])]))
    assert code == exits.CONFIG
    assert capsys.readouterr().err == "edge-store: server.port = 'x'\n  set another value\n"


def test_bug_beside_an_expected_error_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    both = ExceptionGroup("both", [ConfigError("expected"), ZeroDivisionError("a bug")])
    assert report(both) == exits.FAILURE
    assert "ZeroDivisionError: a bug" in capsys.readouterr().err


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        if command is not None and getattr(command, "invoke_without_command", True):
            yield (*names, name), command


def test_no_command_takes_two_databases() -> None:
    found = set()
    for names, command in commands(cli):
        options = {option for parameter in command.params for option in parameter.opts}
        if not {"--db", "--config"} <= options:
            continue
        needed = [new_result_id() for p in command.params if isinstance(p, click.Argument)]
        done = CliRunner().invoke(cli, [*names, *needed, "--db", "x.db", "--config", "x.toml"])
        assert (done.exit_code, "not both" in done.output) == (2, True), (names, done.output)
        found.add(names)
    assert {("query",), ("receipt",), ("ledger",), ("verify",)} <= found


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "0"])
def test_seconds_are_a_positive_number(given: str) -> None:
    with pytest.raises(click.BadParameter):
        POSITIVE.convert(given, None, None)
    assert POSITIVE.convert("0.5", None, None) == 0.5


def test_spans_are_the_same_for_all_and_told_where_one_is_refused() -> None:
    given = {"90s": 90, "10m": 600, "10min": 600, "2h": 7200, "1d": 86400}
    assert {text: SPAN.convert(text, None, None) for text in given} == given
    for arguments in (["stats", "--since"], ["heads", "--dead-after"], ["health", "--dead-after"]):
        option = "--from" if arguments[0] != "stats" else "--in"
        done = CliRunner().invoke(fleet, [*arguments, "10x", option, "."])
        assert (done.exit_code, SPANS in " ".join(done.stderr.split())) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [("qurey", "Did you mean 'query'"), ("Satus", "Did you mean 'status'"), ("zzz", "'zzz'.\n")],
)
def test_misspelt_command_is_answered_with_what_was_meant(given: str, meant: str) -> None:
    done = CliRunner().invoke(cli, [given])
    assert (done.exit_code, meant in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (
            ["logs", "--config", "box", "ls"],
            "it goes behind a command: edge-store logs diff --config",
        ),
        (["--config", "box", "query"], "it goes behind a command: edge-store serve --config"),
        (["logs", "--nothing"], ""),
        (["query", "--confg", "box"], ""),
    ],
)
def test_option_before_its_command_is_told_its_place(
    given: list[str],
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["edge-store", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.endswith(f"  {place}\n") if place else "it goes behind" not in said


def test_folder_without_a_box_is_not_called_absent(tmp_path: Path) -> None:
    found = CliRunner().invoke(cli, ["query", "--config", str(tmp_path)]).exception
    assert str(found).endswith("there is no edge-store.toml in that folder")


def test_empty_file_in_the_place_of_a_database_is_called_empty(tmp_path: Path) -> None:
    file = tmp_path / "results.db"
    file.touch()
    found = CliRunner().invoke(cli, ["query", "--db", str(file), "select 1"]).exception
    assert isinstance(found, NotAnEdgeStoreFile)
    assert str(found) == f"{file} is empty, and no database"
    assert "replica restore" in found.hint


def test_alarms_of_a_box_without_a_daemon_say_how_to_start_it(tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")
    config = tmp_path / "edge-store.toml"
    config.write_text('[store]\npath = "results.db"\n')
    found = CliRunner().invoke(cli, ["alerts", "ls", "--config", str(config)]).exception
    assert isinstance(found, StoreError)
    assert found.hint == "start it: `edge-store serve`"


@pytest.mark.parametrize(
    ("kind", "url", "why"),
    [
        ("webhook", "http://127.0.0.1:1/x", "the web hook is not reached: Connection refused"),
        ("postgres", "postgresql://me@127.0.0.1:1/x", "it is not reached: Connection refused"),
        ("mqtt", "mqtt://127.0.0.1:1", "the broker is not reached: Connection refused"),
    ],
)
def test_receiver_that_is_not_reached_is_looked_for(
    tmp_path: Path, kind: str, url: str, why: str
) -> None:
    new_database(tmp_path / "results.db")
    config = tmp_path / "edge-store.toml"
    sink = f'[[sinks]]\nname = "hook"\nkind = "{kind}"\nurl = "{url}"\n'
    config.write_text(f'[store]\npath = "results.db"\n{sink}')
    found = CliRunner().invoke(cli, ["sinks", "test", "hook", "--config", str(config)]).exception
    assert isinstance(found, SinkFailed)
    assert (str(found), found.hint) == (why, UNREACHED_HINT)


def test_a_whole_id_of_no_result_is_not_asked_for_whole(tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")[0].close()
    asked = [
        "receipt",
        "00000000-0000-4000-8000-000000000000",
        "--db",
        str(tmp_path / "results.db"),
    ]
    done = CliRunner().invoke(cli, asked, standalone_mode=False)
    assert isinstance(done.exception, click.BadParameter)
    assert "the header x-edge-store-id has it: a UUIDv7" in done.exception.message


def test_several_addresses_that_do_not_answer_are_told_in_words() -> None:
    """As where localhost is ::1 and 127.0.0.1; asyncio names both in one error without a number."""

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(OSError, match="Multiple exceptions") as caught:
            await loop.create_connection(asyncio.Protocol, "two.test", 1)
        assert unreached(caught.value) == "none of its addresses answers"

    class TwoAddresses(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, *_arguments: Any, **_more: Any) -> Any:
            stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*stream, ("127.0.0.1", 1)), (*stream, ("127.0.0.2", 1))]

    with asyncio.Runner(loop_factory=TwoAddresses) as runner:
        runner.run(connect())


def test_folder_of_a_box_is_no_folder_of_copies(tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")
    (tmp_path / "edge-store.lock").touch()
    found = CliRunner().invoke(cli, ["fleet", "query", "--in", str(tmp_path), "select 1"]).exception
    assert isinstance(found, NotFound)
    assert found.hint == f"ask it itself: edge-store query --config {tmp_path}"


def test_dry_run_of_an_import_never_says_that_rows_are_in(tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")
    config, lines = tmp_path / "edge-store.toml", tmp_path / "lines.jsonl"
    config.write_text('[store]\npath = "results.db"\n')
    lines.write_text("{broken\n")
    arguments = ["import", str(lines), "--dry-run", "--config", str(config)]
    refused = CliRunner().invoke(cli, arguments).exception
    assert isinstance(refused, ImportFailed)
    assert str(refused) == "1 line was not taken: named above"
    assert refused.hint.startswith("nothing was written (--dry-run)")
    cut = CliRunner().invoke(cli, [*arguments, "--faults-max", "0"])
    assert isinstance(cut.exception, ImportFailed)
    assert "  nothing was written (--dry-run)" in cut.stderr.splitlines()
    assert json.loads(cut.stdout) == {
        "read": 1, "taken": 0, "known": 0, "deleted": 0, "refused": 0, "faults": 1,
        "dry_run": True, "complete": False,
    }  # fmt: skip


def test_value_that_is_not_utf8_is_named() -> None:
    with pytest.raises(click.BadParameter, match=r"the value of 'a' is not UTF-8: '\\xff'"):
        bound([("a", "\udcff")], [])


@pytest.mark.parametrize("span", ["8d", "0s", "8x"])
def test_pause_of_no_such_length_is_refused_before_anybody_is_asked(span: str) -> None:
    done = CliRunner().invoke(cli, ["replica", "pause", "--for", span])
    assert done.exit_code == click.UsageError.exit_code
    assert f"'{span}' is not" in done.output


@pytest.mark.parametrize("command", [["query"], ["replica", "drill"]])
def test_database_that_is_gone_is_first_looked_for(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "edge-store.toml").write_text("")
    option = "--db" if command == ["query"] else "--config"
    place = tmp_path / "results.db" if option == "--db" else tmp_path
    done = CliRunner().invoke(cli, [*command, option, str(place)])
    assert isinstance(done.exception, NotAnEdgeStoreFile)
    assert str(done.exception.hint).startswith("was there a box: is its disk mounted")


@pytest.mark.parametrize("option", ["--config {}", "--config={}"])
def test_the_words_of_query_may_come_after_the_place(option: str, tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")
    (tmp_path / "edge-store.toml").write_text("[queries]\none = 'select 1 as one'\n")
    at = option.format(tmp_path).split()
    listed = CliRunner().invoke(cli, ["query", *at, "ls", "--raw", "name"])
    assert listed.stdout == "one\n", listed.output
    assert CliRunner().invoke(cli, ["query", *at, "@one", "--nl"]).stdout == '{"one":1}\n'


def test_compressed_backup_says_what_unpacks_it(tmp_path: Path) -> None:
    packed = tmp_path / "box.db.zst"
    packed.write_bytes(ZSTD_MAGIC + bytes(4096))
    done = CliRunner().invoke(cli, ["query", "--db", str(packed)])
    assert isinstance(done.exception, NotAnEdgeStoreFile)
    assert "edge-store restore FILE --to" in done.exception.hint


def test_a_folder_where_a_file_is_asked_says_what_asks_a_box(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["logs", "ls", "--db", str(tmp_path)])
    assert isinstance(done.exception, NotAnEdgeStoreFile)
    assert str(done.exception) == f"{tmp_path} is a folder, and no database"
    assert "--config FOLDER" in done.exception.hint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["querry"], "No such command 'querry'. Did you mean 'query'?"),
        (["zzz"], "No such command 'zzz'.\n"),
        (["query", "select", "1"], "put all of the SQL between quotation marks"),
    ],
)
def test_wrong_usage_says_what_was_meant(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_one_of_several_files_that_is_not_there_is_told_as_one_alone_is(tmp_path: Path) -> None:
    new_database(tmp_path / "results.db")
    files = ["--db", str(tmp_path / "results.db"), "--db", str(tmp_path / "absent.db")]
    done = CliRunner().invoke(cli, ["query", "select count(*) from results", *files])
    assert isinstance(done.exception, NotAnEdgeStoreFile)
    assert "absent.db: there is no such file" in str(done.exception)
    assert done.exception.hint


@pytest.mark.parametrize("command", [["logs", "ls"], ["stats"], ["logs", "search", "x"]])
def test_several_files_where_one_is_asked_are_wrong_usage(command: list[str]) -> None:
    done = CliRunner().invoke(cli, [*command, "--db", "a.db", "--db", "b.db"])
    assert (done.exit_code, "edge-store query" in done.stderr) == (2, True), done.output


@pytest.mark.parametrize("empty", ["--user", "--tenant", "--conversation", "--batch"])
def test_an_empty_value_is_no_filter_of_a_hold(tmp_path: Path, empty: str) -> None:
    added = ["retention", "hold", "add", "case", "--model", "m", "--config", str(tmp_path)]
    done = CliRunner().invoke(cli, [*added, empty, ""])
    assert done.exit_code == 2
    said = f"{empty} is empty, and would not say what to hold: give it a value, or leave it out"
    assert f"{said}; nothing was held" in done.output
