"""The commands as their user meets them: init, query, config show, status, doctor."""

import base64
import csv
import io
import json
import os
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.daemon import EDGE_STORE, Box, chat_until_replicated, environment, until
from support.terminal import on_terminal

from edge_store.cli.values import bound
from edge_store.sqlite import PAGE_BYTES, driver

ODD_ROW = "select 1 as n, null as nil, x'00ff' as b, 'a,\"b\"\t' as t, char(27) || '[31m' as e"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("commands") / "box")


def settings(directory: Path) -> dict[str, Any]:
    return tomllib.loads((directory / "edge-store.toml").read_text(encoding="utf-8"))


# init


def test_init_without_a_terminal_makes_a_demo_and_says_so(tmp_path: Path) -> None:
    done = Box(tmp_path / "box").run("init", "box")
    assert done.returncode == 0
    assert "DEMO" in done.stderr
    assert "next: edge-store serve --config box/edge-store.toml" in done.stdout
    assert settings(tmp_path / "box")["engine"]["kind"] == "demo"
    assert settings(tmp_path / "box")["replica"]["url"] == f"file://{tmp_path}/box/replica"


def test_init_on_a_terminal_asks_for_engine_and_address(tmp_path: Path) -> None:
    code, shown = on_terminal(
        [*EDGE_STORE, "init", str(tmp_path / "box")],
        environment(),
        typed=["upstream", "http://127.0.0.1:30000"],
    )
    assert code == 0, shown
    assert "Which engine?" in shown
    engine = settings(tmp_path / "box")["engine"]
    assert engine["kind"] == "upstream"
    assert engine["upstream"]["base_url"] == "http://127.0.0.1:30000"


def test_init_with_an_option_asks_nothing_on_a_terminal(tmp_path: Path) -> None:
    code, shown = on_terminal(
        [*EDGE_STORE, "init", str(tmp_path / "box"), "--engine", "demo"], environment()
    )
    assert code == 0
    assert "?" not in shown
    assert "DEMO" in shown


def test_init_with_an_address_alone_makes_an_upstream_box(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--upstream", "http://127.0.0.1:30000")
    assert settings(box.directory)["engine"]["kind"] == "upstream"


@pytest.mark.parametrize("kept", ["edge-store.toml", "results.db"])
def test_init_overwrites_nothing(tmp_path: Path, kept: str) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / kept).write_text("mine")
    done = Box(folder).run("init", str(folder), "--engine", "demo")
    assert done.returncode == 78
    assert kept in done.stderr
    assert [path.name for path in folder.iterdir()] == [kept]
    assert (folder / kept).read_text() == "mine"


def test_nothing_is_replicated_yet_after_init(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--device-id", "box-1", REPLICA__ENABLED="true")
    done = box.run("replica", "status", "--config", str(box.directory), SERVER__PORT="1")
    assert done.returncode == 0, done.stderr
    assert "nothing is replicated yet" in done.stdout


def test_init_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    """All that a SIGKILL may leave: the next moment would have made it a box."""
    box = Box.init(tmp_path / "box", "--device-id", "first")
    config = box.directory / "edge-store.toml"
    config.rename(config.with_name("edge-store.toml.unfinished"))
    again = Box.init(tmp_path / "box", "--device-id", "second")
    assert again.scalar("SELECT device_id FROM device") == "second"
    assert not config.with_name("edge-store.toml.unfinished").exists()


def test_init_that_was_cut_short_takes_no_database_that_was_served(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", "--device-id", "first")
    with box.serve() as daemon:
        assert daemon.stop() == 0
    config = box.directory / "edge-store.toml"
    config.rename(config.with_name("edge-store.toml.unfinished"))
    done = box.run("init", str(box.directory), "--device-id", "second")
    assert done.returncode == 78
    assert "is already there" in done.stderr
    assert box.scalar("SELECT device_id FROM device") == "first"


def test_init_takes_no_wal_away_from_a_database_that_was_moved(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    with box.serve() as daemon:
        chat_until_replicated(daemon)  # before the first upload the WAL is emptied
        assert daemon.stop() == 0
    wal = box.database.with_name("results.db-wal")
    commits = wal.read_bytes()
    assert commits
    for path in (box.database, box.directory / "edge-store.toml"):
        path.rename(tmp_path / path.name)
    done = box.run("init", str(box.directory))
    assert done.returncode == 78
    assert "results.db-wal is there without its database" in done.stderr
    assert wal.read_bytes() == commits


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--engine", "upstream"], "--upstream"),
        (["--engine", "sglang"], "--model"),
        (["--engine", "upstream", "--upstream", "host:1"], "host:1"),
        (["--engine", "demo", "--device-id", "Ward 7"], "Ward 7"),
        (["--engine", "demo", "--device-id", "heads"], "heads"),
        (["--engine", "demo", "--upstream", "http://127.0.0.1:1"], "--upstream"),
        (["--engine", "sglang", "--upstream", "http://127.0.0.1:1"], "--upstream"),
        (["--state-dir", "/proc/x"], "/proc/x"),
    ],
)
def test_init_that_fails_leaves_nothing(tmp_path: Path, options: list[str], named: str) -> None:
    done = Box(tmp_path / "box").run("init", "box", *options)
    assert done.returncode == 78
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert Box(tmp_path / "box").run("init", "box", "--engine", "demo").returncode == 0


def test_init_of_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    done = Box(tmp_path / "box").run("init", "README.md")
    assert done.returncode == 78
    assert "README.md" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "README.md").read_text() == "mine"


def test_init_makes_a_folder_that_others_cannot_read(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    assert box.directory.stat().st_mode & 0o007 == 0


# query


def test_query_writes_one_object_per_line_into_a_pipe(box: Box) -> None:
    done = box.run("query", ODD_ROW, "--config", str(box.directory))
    (line,) = done.stdout.splitlines()
    expected = {"n": 1, "nil": None, "b": base64.b64encode(b"\0\xff").decode()}
    assert json.loads(line) == {**expected, "t": 'a,"b"\t', "e": "\x1b[31m"}


@pytest.mark.parametrize(("option", "delimiter"), [("--csv", ","), ("--tsv", "\t")])
def test_query_writes_separated_values_that_read_back(
    box: Box, option: str, delimiter: str
) -> None:
    done = box.run("query", ODD_ROW, "--config", str(box.directory), option)
    header, row = csv.reader(io.StringIO(done.stdout), delimiter=delimiter)
    assert header == ["n", "nil", "b", "t", "e"]
    assert row == ["1", "", "AP8=", 'a,"b"\t', "\x1b[31m"]


def test_query_writes_json_that_json_readers_take(box: Box) -> None:
    done = box.run("query", "select 9e999 as big, 1 as a, 2 as a", "--json",
                   "--config", str(box.directory))  # fmt: skip

    def refuse(text: str) -> None:
        raise AssertionError(text)

    (row,) = json.loads(done.stdout, parse_constant=refuse)
    assert list(row.values()) == ["inf", 1, 2]


def test_query_fits_its_table_to_the_terminal_without_control_characters(box: Box) -> None:
    statement = f"{ODD_ROW}, {', '.join(f'hex(zeroblob(40)) as c{n}' for n in range(4))}"
    code, shown = on_terminal(
        [*EDGE_STORE, "query", statement, "--config", str(box.directory)],
        box.environ,
        columns=90,
    )
    assert code == 0
    assert "\x1b" not in shown
    assert "<2 bytes>" in shown
    assert max(len(line) for line in shown.splitlines()) <= 90


def test_newest_results_show_whole_ids_on_a_narrow_terminal(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        made = [daemon.chat("a prompt of many words " * 9).headers["x-edge-store-id"] for _ in "ab"]
    command = [*EDGE_STORE, "query", "--config", str(box.directory)]
    code, shown = on_terminal(command, box.environ, columns=80)
    assert code == 0
    assert all(result_id in shown for result_id in made)
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize(("option", "said"), [("--limit", 0), ("--max-rows", 1)])
def test_query_says_when_it_is_cut_and_nobody_asked_for_so_few(
    box: Box, option: str, said: int
) -> None:
    done = box.run("query", "values (1), (2), (3)", option, "2", "--config", str(box.directory))
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.count("--max-rows") == said


def test_query_that_is_refused_says_why_on_one_line_and_exits_1(box: Box) -> None:
    done = box.run("query", "delete from results", "--config", str(box.directory))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "only statements that read" in done.stderr
    assert "Traceback" not in done.stderr


def test_query_into_a_reader_that_leaves_is_silent(box: Box) -> None:
    command = " ".join(EDGE_STORE)
    script = (
        f"{command} query 'with recursive c(n) as (select 1 union all select n + 1 from c) "
        f"select n from c' --limit 200000 --config {box.directory} | head -1"
    )
    code, shown = on_terminal(["/bin/bash", "-c", script], box.environ)
    assert code == 0
    assert shown.splitlines() == ['{"n":1}']


def test_query_of_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.directory.chmod(0)
    # root without the capabilities to read what it may not
    drop = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}", *EDGE_STORE]
    try:
        code, shown = on_terminal(
            [*(command if os.geteuid() == 0 else EDGE_STORE), "query", "select 1",
             "--db", str(box.database)],
            box.environ,
        )  # fmt: skip
    finally:
        box.directory.chmod(0o750)
    assert code == 77
    assert "Permission denied" in shown
    assert "Traceback" not in shown


# config show


def test_config_show_names_the_origin_of_each_value(box: Box) -> None:
    done = box.run("config", "show", "--config", str(box.directory), "--json", SERVER__PORT="9000")
    found = {setting["key"]: setting for setting in json.loads(done.stdout)}
    assert found["server.port"] == {
        "key": "server.port", "value": 9000, "origin": "EDGE_STORE_SERVER__PORT"
    }  # fmt: skip
    assert found["engine.kind"]["origin"] == str(box.directory / "edge-store.toml")
    assert found["server.host"]["origin"] == "default"


def test_config_show_aligns_its_columns(box: Box) -> None:
    done = box.run("config", "show", "--config", str(box.directory))
    lines = done.stdout.splitlines()
    assert len({line.index("default") for line in lines if line.endswith("default")}) == 1


def test_config_show_defaults_reads_nothing_that_may_be_wrong(tmp_path: Path) -> None:
    (tmp_path / "edge-store.toml").write_text("wrong = 1")
    done = Box(tmp_path / "box").run("config", "show", "--defaults", SERVER__PORT="x")
    assert done.returncode == 0
    assert "server.port" in done.stdout


# status and doctor


def test_status_of_a_daemon_tells_what_it_does_and_exits_0(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        port = daemon.url.rpartition(":")[2]
        done = box.run("status", "--config", str(box.directory), "--json", SERVER__PORT=port)
        text = box.run("status", "--config", str(box.directory), SERVER__PORT=port)
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"]) == (0, "ready")
    assert found["daemon"]["engine"]["kind"] == "demo"
    assert found["daemon"]["admission"]["is_open"] is True
    assert found["stored"]["results"] == 1
    assert found["stored"]["device_id"] == found["daemon"]["device_id"]
    assert text.returncode == 0
    assert text.stdout.startswith("daemon     ready at http://127.0.0.1:")


def test_status_of_a_daemon_whose_engine_is_away_is_not_ready(tmp_path: Path) -> None:
    options = ("--engine", "upstream", "--upstream", "http://127.0.0.1:1")
    box = Box.init(tmp_path / "box", *options)
    daemon = box.serve()
    daemon.start()
    try:
        port = str(daemon.logged("http_listening")["url"]).rpartition(":")[2]
        done = box.run("status", "--config", str(box.directory), SERVER__PORT=port)
        assert done.returncode == 1
        assert done.stdout.startswith("daemon     not ready at")
        assert "upstream unknown, not ready: `edge-store doctor` says why" in done.stdout
        code, found = doctor(box, SERVER__PORT=port)
        assert (code, found["engine"]["state"]) == (1, "failed")
        assert "the server at http://127.0.0.1:1 does not answer" in found["engine"]["found"]
        assert daemon.stop() == 0
    finally:
        if daemon.exit_code is None:
            daemon.kill()


def test_status_without_a_daemon_shows_the_files_and_exits_1(box: Box) -> None:
    done = box.run("status", "--config", str(box.directory), "--json", SERVER__PORT="1")
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"], found["daemon"]) == (1, "down", None)
    assert "refused" in found["problem"]
    assert found["stored"]["results"] == 0
    assert found["disk_free_bytes"] > 0


def test_status_says_below_what_requests_are_refused(box: Box) -> None:
    reserve = {"STORE__DISK_RESERVE_BYTES": str(512 << 20), "SERVER__PORT": "1"}
    done = box.run("status", "--config", str(box.directory), **reserve)
    assert "free; below 256.0 MiB requests are refused" in done.stdout, done.stdout


def test_status_names_the_process_that_holds_the_database(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        done = box.run("status", "--config", str(box.directory), SERVER__PORT="1")
        assert f"process {daemon.process_id} holds the database" in done.stdout
    assert done.returncode == 1


def test_status_does_not_take_another_box_for_this_one(tmp_path: Path) -> None:
    this, other = Box.init(tmp_path / "this"), Box.init(tmp_path / "other")
    with other.serve() as daemon:
        port = daemon.url.rpartition(":")[2]
        done = this.run("status", "--config", str(this.directory), "--json", SERVER__PORT=port)
    found = json.loads(done.stdout)
    assert (done.returncode, found["state"]) == (1, "down")
    assert "another box" in found["problem"]


def doctor(box: Box, *options: str, **settings: str) -> tuple[int, dict[str, dict[str, str]]]:
    command = ("doctor", "--config", str(box.directory), "--json", *options)
    done = Box(box.directory, **settings).run(*command)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_doctor_finds_nothing_wrong_with_a_new_box(box: Box) -> None:
    code, found = doctor(box, "--full", REPLICA__ENABLED="true", SERVER__PORT="1")
    assert code == 0
    for name in ("config", "python", "sqlite", "litestream", "folder", "database", "device",
                 "pages", "disk"):  # fmt: skip
        assert found[name]["state"] == "ok", found[name]
    assert "median" in found["flush"]["found"] or "memory" in found["flush"]["found"]
    assert found["replica-disk"]["state"] == "warning"
    assert all(check["advice"] for check in found.values() if check["state"] != "ok")


def test_doctor_sees_the_replica_of_a_running_daemon(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    with box.serve() as daemon:
        port = daemon.url.rpartition(":")[2]
        until(lambda: daemon.get("/readyz").json()["replica"]["state"] == "ok", "it replicates")
        _, found = doctor(box, REPLICA__ENABLED="true", SERVER__PORT=port)
        assert daemon.stop() == 0
    assert found["engine"]["state"] == "ok"
    assert found["replica"]["state"] == "ok"
    assert "behind" in found["replica"]["found"]


def test_doctor_misses_the_keys_of_an_object_store_and_shows_none(box: Box) -> None:
    _, found = doctor(box, REPLICA__ENABLED="true", REPLICA__URL="s3://bucket/p", SERVER__PORT="1")
    assert found["replica-keys"]["state"] == "warning"
    assert "AWS_ACCESS_KEY_ID" in found["replica-keys"]["found"]
    assert found["replica-disk"]["state"] == "ok"


def test_doctor_goes_on_where_the_place_of_the_replica_cannot_be_looked_at(box: Box) -> None:
    url = (
        f"file:///{'a' * 300}"  # too long a name: it fails as a folder of others does, for root too
    )
    _, found = doctor(box, REPLICA__ENABLED="true", REPLICA__URL=url, SERVER__PORT="1")
    assert found["replica-disk"]["state"] == "warning"
    assert "cannot be looked at: File name too long" in found["replica-disk"]["found"]
    assert found["replica"]["state"] == "warning"


def test_doctor_fails_on_a_wrong_setting_and_goes_on(box: Box) -> None:
    code, found = doctor(box, SERVER__PORT="x")
    assert code == 1
    assert "EDGE_STORE_SERVER__PORT" in found["config"]["found"]
    assert found["sqlite"]["state"] == "ok"


def test_doctor_fails_on_a_disk_below_the_reserve(box: Box) -> None:
    code, found = doctor(box, STORE__DISK_RESERVE_BYTES=str(2**60))
    assert (code, found["disk"]["state"]) == (1, "failed")
    assert f"below half of it ({2**59}) requests are refused" in found["disk"]["found"]


def test_doctor_fails_on_a_damaged_page(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    with box.database.open("r+b") as file:
        file.seek(2 * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)
    code, found = doctor(box, "--full")
    assert code == 1
    assert "failed" in {found.get(name, {}).get("state") for name in ("database", "pages")}


def test_doctor_fails_on_a_database_of_someone_else(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.database.unlink()
    connection = sqlite3.connect(box.database)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    code, found = doctor(box)
    assert (code, found["database"]["state"]) == (1, "failed")


def test_doctor_fails_on_another_boxs_id(box: Box) -> None:
    code, found = doctor(box, DEVICE__ID="another")
    assert (code, found["device"]["state"]) == (1, "failed")


def test_doctor_fails_on_a_folder_that_anyone_may_write(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.directory.chmod(0o777)
    code, found = doctor(box)
    assert (code, found["folder"]["state"]) == (1, "failed")


def test_doctor_warns_of_results_that_anyone_may_read(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    box.directory.chmod(0o755)
    box.database.chmod(0o644)
    code, found = doctor(box)
    assert (code, found["folder"]["state"]) == (0, "warning")


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("-p", "17", "integer"), ("-p", "-3", "integer"), ("-p", "0", "integer"),
        ("-p", "0.5", "real"), ("-p", "-12.50", "real"), ("-p", "9223372036854775807", "integer"),
        ("-p", "9223372036854775808", "text"), ("-p", "007", "text"), ("-p", "1e5", "text"),
        ("-p", "0190d3e1", "text"), ("-p", "", "text"), ("-p", "٣", "text"), ("-p", "nan", "text"),
        ("-p", "-0", "text"), ("--text", "17", "text"),
    ],
)  # fmt: skip
def test_a_value_that_is_written_as_a_number_is_one(option: str, value: str, kind: str) -> None:
    pair = [("v", value)]
    given = bound(pair, []) if option == "-p" else bound([], pair)
    with closing(driver.connect(":memory:")) as connection:
        (found,) = connection.execute("SELECT typeof(:v)", given).fetchone()
    assert found == kind


def test_numbers_compare_as_numbers_in_a_query(box: Box) -> None:
    statement = "select 9 < :n as smaller, '17' = :t as same"
    done = box.run(
        "query", statement, "-p", "n", "17", "--text", "t", "17", "--nl",
        "--config", str(box.directory),
    )  # fmt: skip
    assert json.loads(done.stdout) == {"smaller": 1, "same": 1}, done.stderr
