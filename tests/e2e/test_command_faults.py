"""Commands whose user leaves, whose disk is full, whose terminal has no umlauts: one plain line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import DEADLINE_S, EDGE_STORE, ROOT, Box, environment, until
from support.exporting import box_of, chat, store
from support.records import new_database

from edge_store.recorder.boot import end_boot

CHILD = ROOT / "tests" / "support" / "export_child.py"
COUNT = "with recursive c(n) as (select 1 union all select n + 1 from c)"


READING = (
    "query",
    "logs ls",
    "logs show {id}",
    "logs show {id} --raw request",
    "stats",
    "export -",
)


def box_with_one(tmp_path: Path) -> tuple[Path, str]:
    """The file of a box with one result, and that one's id."""
    connection, boot = new_database(tmp_path / "one.db")
    result = chat(1, boot)
    store(connection, boot, [result])
    end_boot(connection, boot)  # else it is said that it had not ended
    connection.close()
    return tmp_path / "one.db", result.id


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("faults") / "box")


def shell(box: Box, script: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; $STORE is the program and $BOX the folder."""
    environ = {**box.environ, "STORE": " ".join(EDGE_STORE), "BOX": str(box.directory)}
    return subprocess.run(
        ["/bin/bash", "-c", script], env=environ, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip


CUTS = [(signal.SIGINT, 130, "aborted"), (signal.SIGTERM, 143, "terminated")]


@pytest.mark.parametrize(("number", "exit_code", "word"), CUTS)
def test_ctrl_c_and_sigterm_end_a_query_at_once(
    box: Box, number: int, exit_code: int, word: str
) -> None:
    process = subprocess.Popen(
        [*EDGE_STORE, "query", f"{COUNT} select n, count(*) over () from c",
         "--timeout", "600", "--config", str(box.directory)],
        env=box.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        status = Path(f"/proc/{process.pid}/maps")
        while "results.db-shm" not in status.read_text():  # the query has begun, or is about to
            assert process.poll() is None
        process.send_signal(number)
        shown, said = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, shown, said.strip()) == (exit_code, "", word)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a box with more results than an export writes before a test can cut it."""
    path = tmp_path_factory.mktemp("many") / "results.db"
    connection, _ = box_of(path, 3000)
    connection.close()
    return path


@pytest.mark.parametrize(("number", "exit_code", "word"), CUTS)
def test_an_export_that_is_cut_tells_how_far_it_came_and_goes_on(
    many: Path, tmp_path: Path, number: int, exit_code: int, word: str
) -> None:
    target, state = tmp_path / "all.jsonl", tmp_path / "all.jsonl.state.json"
    command = [sys.executable, str(CHILD), "export", "--db", str(many), str(target)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as cut:
        try:
            until(lambda: state.exists() and json.loads(state.read_bytes())["seq"], "a mark")
            cut.send_signal(number)
            _, said = cut.communicate(timeout=DEADLINE_S)
        finally:
            cut.kill()
    came = json.loads(state.read_bytes())
    assert 0 < came["seq"] < 3000, "it was over before it could be cut: this proves nothing"
    assert [line for line in said.splitlines() if line] == [
        f"edge-store: cut: {came['rows']} results to {target}, up to seq {came['seq']}",
        f"  given again with --resume it goes on from there, by {state}",
        word,
    ]
    assert cut.returncode == exit_code
    done = Box(tmp_path).run("export", "--db", str(many), str(target), "--resume")
    assert done.returncode == 0, done.stderr
    seqs = [json.loads(line)["seq"] for line in target.read_text().splitlines()]
    assert seqs == list(range(1, 3001))


@pytest.mark.parametrize(("number", "exit_code", "word"), CUTS)
def test_an_export_without_a_state_tells_where_to_go_on(
    many: Path, number: int, exit_code: int, word: str
) -> None:
    command = [sys.executable, str(CHILD), "export", "--db", str(many), "-"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as cut:
        try:
            assert cut.stdout is not None
            first = [cut.stdout.readline() for _ in range(100)]  # it waits for who reads the rest
            cut.send_signal(number)
            rest, said = cut.communicate(timeout=DEADLINE_S)
        finally:
            cut.kill()
    assert cut.returncode == exit_code
    told, hint, *ending = [line for line in said.splitlines() if line]
    found = re.fullmatch(r"edge-store: cut: (\d+) results to -, up to seq (\d+)", told)
    assert found is not None, said
    assert found[1] == found[2]
    seq = int(found[1])
    assert seq <= len(first) + rest.count("\n") < 3000
    assert hint == (
        f"  --after {seq} goes on from there; what stands behind seq {seq} is to be cut off first"
    )
    assert ending == [word]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ['query "select 1"', "status --json", "config show"])
def test_full_disk_behind_the_output_is_one_line(box: Box, command: str, unbuffered: str) -> None:
    done = shell(box, f"PYTHONUNBUFFERED={unbuffered} $STORE {command} --config $BOX > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "edge-store: standard output: No space left on device\n"


def test_reader_that_leaves_ends_a_query_with_141(box: Box) -> None:
    done = shell(
        box,
        f'$STORE query "{COUNT} select n from c" --limit 100000 --config $BOX | head -1; '
        "echo ${PIPESTATUS[0]}",
    )
    assert (done.stdout, done.stderr) == ('{"n":1}\n141\n', "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", READING)
def test_reader_that_has_left_ends_every_command_with_141(
    tmp_path: Path, command: str, unbuffered: str
) -> None:
    database, result_id = box_with_one(tmp_path)
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*EDGE_STORE, *command.format(id=result_id).split(), "--db", str(database)],
            env=environment(PYTHONUNBUFFERED=unbuffered), stdout=written, stderr=subprocess.PIPE,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    finally:
        os.close(written)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", ["--nl", "--csv", "--raw n"])
def test_output_that_takes_only_a_part_is_told(box: Box, form: str, unbuffered: str) -> None:
    done = shell(
        box,
        f"ulimit -f 64; PYTHONUNBUFFERED={unbuffered} $STORE query "
        f'"{COUNT} select n from c" --limit 100000 {form} --config $BOX > $BOX/part',
    )
    assert (box.directory / "part").stat().st_size == 64 * 1024
    assert done.returncode == 1
    assert done.stderr == "edge-store: standard output: File too large\n"


@pytest.mark.parametrize("more", ["", "2>&-"])
@pytest.mark.parametrize("command", READING)
def test_closed_output_is_told_and_a_failure(tmp_path: Path, command: str, more: str) -> None:
    """And neither the database nor what is printed gets its number."""
    database, result_id = box_with_one(tmp_path)
    before = database.read_bytes()
    asked = command.format(id=result_id)
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {' '.join(EDGE_STORE)} {asked} --db {database} >&- 0<&- {more}"],
        env=environment(), stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    said = "edge-store: standard output: it is closed\n"
    assert (done.returncode, done.stderr) == (1, "" if more else said)
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["--help", "--version", "status --json", "config show", "doctor", "export --help", "verify",
     "import /dev/null"],
)  # fmt: skip
def test_closed_output_fails_every_command_that_writes(box: Box, command: str) -> None:
    config = "" if command.startswith("--") or command.endswith("--help") else "--config $BOX"
    done = shell(box, f"$STORE {command} {config} >&-")
    assert done.returncode == 1
    assert done.stderr.endswith("edge-store: standard output: it is closed\n")
    assert "Traceback" not in done.stderr


def test_an_export_to_a_file_needs_no_output(box: Box, tmp_path: Path) -> None:
    done = shell(box, f"$STORE export {tmp_path}/all.jsonl --config $BOX >&-")
    assert done.returncode == 0, done.stderr


def test_a_daemon_needs_no_output(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    done = shell(box, """
        EDGE_STORE_SERVER__PORT=0 $STORE serve --config $BOX >&- & pid=$!
        until $STORE query "select count(*) from boots" --raw 'count(*)' --config $BOX | grep -q 1
        do kill -0 $pid || exit 9; sleep 0.1; done
        sleep 0.2; kill $pid; wait $pid
    """)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_text_that_the_terminal_has_no_letters_for_is_escaped(box: Box) -> None:
    done = shell(box, "PYTHONIOENCODING=ascii $STORE query \"select 'ü' as t\" --config $BOX --csv")
    assert (done.returncode, done.stdout) == (0, "t\n\\xfc\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("form", ["--nl", "--json", "--arrays", "--json-cols"])
def test_json_stays_json_where_the_output_has_no_letters_for_it(
    box: Box, form: str, encoding: str
) -> None:
    asked = "select :t as t, json_object('a', :t) as j"
    command = ["query", asked, "--text", "t", 'ü你👩‍💻 "\\', form, "--config", str(box.directory)]
    told, whole = (
        subprocess.run(
            [*EDGE_STORE, *command], env={**box.environ, "PYTHONIOENCODING": each},
            capture_output=True, timeout=DEADLINE_S, check=True,
        ).stdout
        for each in (encoding, "utf-8")
    )  # fmt: skip
    assert told.isascii()
    assert "👩‍💻".encode() in whole
    assert json.loads(told) == json.loads(whole)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("asked", ["status", "drill"])
def test_json_of_a_replica_stays_json_where_the_output_has_no_letters_for_it(
    tmp_path: Path, asked: str, encoding: str
) -> None:
    url = f"file://{tmp_path}/bücher"
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true", REPLICA__URL=url)
    done = subprocess.run(
        [*EDGE_STORE, "replica", asked, "--json", "--config", str(box.directory)],
        env={**box.environ, "PYTHONIOENCODING": encoding}, capture_output=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stdout.isascii(), done.stderr
    assert "bücher" in str(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("asked", "said"), [("query -", "the SQL holds no statement"), ("retention apply", "--yes")]
)
def test_closed_input_is_an_empty_one(box: Box, asked: str, said: str) -> None:
    done = shell(box, f"$STORE {asked} --config $BOX <&-")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("option", ["--pairs 0", "--rows -1", "--requests 0"])
def test_bench_of_nothing_is_refused(box: Box, option: str) -> None:
    done = shell(box, f"$STORE bench writer {option}")
    assert done.returncode == 2
    assert option.partition(" ")[0] in done.stderr


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_daemon_on_files_that_it_may_not_write_says_so(tmp_path: Path, suffix: str) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    box = Box.init(tmp_path / "box")
    with box.serve() as daemon:
        assert daemon.chat("hello").status_code == 200
        daemon.kill()
    file = box.database.with_name(box.database.name + suffix)
    file.chmod(0o440)
    drop = "-dac_override,-dac_read_search,-fowner"  # root without the right to write it anyway
    done = shell(
        box, f"setpriv --inh-caps={drop} --bounding-set={drop} $STORE serve --config $BOX --port 0"
    )
    assert done.returncode in (1, 77)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("edge-store: ")
    assert len(done.stderr.splitlines()) == 2, done.stderr


def test_a_value_that_cannot_be_is_named_in_the_fields_words(box: Box) -> None:
    done = box.run("keys", "create", "app", "--tenant", "", "--config", str(box.directory))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "edge-store: `tenant` must have at least 1 character\n"
