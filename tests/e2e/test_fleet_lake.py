"""``fleet export`` as an operator runs it: killed anywhere, on S3, and after a box forgot."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.lakes import exported, in_copies, in_lake
from support.motoserver import MotoServer
from support.replicating import ROOT, Database
from support.s3server import S3Server

from edge_store.errors import ConfigError
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.lake.tables import TABLES_DEFAULT
from edge_store.fleet.lake.writers import require_conditions, require_ranges
from edge_store.identity import create_identity
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.sqlite import open_writer

DEADLINE_S = 120.0
KILLS = 4
BOXES = ("box-a", "box-b", "box-c")
EDGE_STORE = "from edge_store.cli import main; main()"
SMALL_COMMITS = f"from edge_store.fleet.lake import append; append.GROUP_BYTES = 1; {EDGE_STORE}"
DYING = f"""
import os, signal
from edge_store.fleet.lake import append
from edge_store.fleet.lake.store import Lake

steps, after_s = int(os.environ["STEPS"]), float(os.environ["AFTER_S"])

def dying(step):
    def taken(*given, **named):
        global steps
        if steps == 0:
            signal.setitimer(signal.ITIMER_REAL, after_s)  # nobody handles it: the kernel ends us
        if steps == -2:
            signal.pause()
        steps -= 1
        return step(*given, **named)
    return taken

append.write_deltalake, Lake.make = dying(append.write_deltalake), dying(Lake.make)
{SMALL_COMMITS}
"""  # a whole export takes a quarter of a second: whoever looks from outside may be too late
STEPS = 3  # with the two behind them at most 4 of 20, each time
Keys = dict[str, str] | None


def child(program: str, *arguments: str, environ: Keys = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def moment(rng: random.Random) -> dict[str, str]:
    """When one that is ``DYING`` ends: so long after the start of a table or commit."""
    return {"STEPS": f"{rng.randrange(STEPS)}", "AFTER_S": f"{rng.uniform(1e-5, 0.02)}"}


def run(*arguments: str, environ: Keys = None) -> tuple[int, str]:
    process = child(EDGE_STORE, "fleet", *arguments, environ=environ)
    output, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output


def make_fleet(folder: Path, results: int) -> list[Path]:
    folder.mkdir()
    copies = []
    for name in BOXES:
        database = Database(folder / f"{name}.db", name)
        database.write(results)
        database.connection.execute("PRAGMA journal_mode = DELETE")
        database.close()
        copies.append(database.path)
    return copies


def files_of(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def test_export_killed_again_and_again_goes_on_and_doubles_nothing(tmp_path: Path) -> None:
    """Each is killed wherever it is then."""
    copies = make_fleet(tmp_path / "fleet", 400)
    folder, seed = tmp_path / "lake", random.randrange(2**32)
    lake, rng = Lake(str(folder)), random.Random(seed)
    arguments = ["fleet", "export", "--in", str(tmp_path / "fleet"), "--lake", str(folder)]
    for _ in range(KILLS):
        process = child(DYING, *arguments, environ=moment(rng))
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == -signal.SIGALRM, (seed, output)
        for table in TABLES_DEFAULT:
            if lake.find(table) is not None:  # what is there is true, and there once
                rows = in_lake(lake, table)
                assert len(rows) == len(set(rows)), seed
                assert set(rows) <= set(in_copies(*copies, table=table)), seed
    code, output = run("export", "--in", str(tmp_path / "fleet"), "--lake", str(folder))
    assert code == 0, output
    for table in TABLES_DEFAULT:
        assert in_lake(lake, table) == in_copies(*copies, table=table), seed


def test_lake_in_a_bucket_with_conditions_is_the_union(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = make_fleet(tmp_path / "fleet", 3)
    with MotoServer() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        lake = Lake(server.url("some/lake"))
        require_conditions(lake)
        require_ranges(lake)
        for _ in range(2):
            exported(tmp_path / "fleet", lake, tables=TABLES_DEFAULT)
        for table in TABLES_DEFAULT:
            assert in_lake(lake, table) == in_copies(*copies, table=table)


def test_a_bucket_without_conditions_wants_the_operators_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError) as refused:
            require_conditions(Lake(server.url("lake")))
    assert "--only-writer" in refused.value.hint


def test_a_bucket_that_gives_no_parts_of_objects_is_refused(tmp_path: Path) -> None:
    make_fleet(tmp_path / "fleet", 3)
    with S3Server(tmp_path / "s3") as server:
        place = ("--in", str(tmp_path / "fleet"), "--lake", server.url("lake"))
        code, output = run("export", *place, "--only-writer", environ=server.environ)
        assert (code, "Range" in output) == (78, True), output
        assert files_of(server.folder) == 0


@pytest.fixture(params=["folder", "bucket"])
def lake_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, dict[str, str]]]:
    """Where a lake is to lie, and the keys for it."""
    if request.param == "folder":
        yield str(tmp_path / "lake"), {}
        return
    with MotoServer() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server.url("some/lake"), server.environ


def test_centres_whose_copies_fork_export_at_once_and_are_killed(
    tmp_path: Path, lake_url: tuple[str, dict[str, str]]
) -> None:
    """Of one box: a copy of what it wrote, one of after a restore, one of after its retention."""
    url, environ = lake_url
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    copies = [folder / "box-a.db" for folder in folders]
    with closing(Database(tmp_path / "box.db", "box-a")) as box:
        box.write(150)
        restored = tmp_path / "restored.db"
        box.connection.execute("VACUUM INTO ?", (str(restored),))
        box.write(100)
        box.connection.execute("VACUUM INTO ?", (str(copies[0]),))
        delete_results(box.connection, list(range(20, 180)), Reason.RETENTION)
        box.write(50)
        box.connection.execute("VACUUM INTO ?", (str(copies[2]),))
    with closing(open_writer(restored)) as connection:
        create_identity(connection, "box-a", reason="restored")
    with closing(Database(restored, "box-a")) as again:
        again.write(120)
        again.connection.execute("VACUUM INTO ?", (str(copies[1]),))
    lake, seed = Lake(url), random.randrange(2**32)
    rng, killed = random.Random(seed), 0
    for _ in range(KILLS):
        dying = rng.sample(folders, 2)
        running = [
            child(DYING if each in dying else SMALL_COMMITS, "fleet", "export", "--in", str(each),
                  "--lake", url, environ={**environ, **moment(rng)})
            for each in folders
        ]  # fmt: skip
        for each in running:
            output, _ = each.communicate(timeout=DEADLINE_S)
            killed += each.returncode == -signal.SIGALRM
            assert each.returncode in (0, -signal.SIGALRM) or "lake_overtaken" in output, output
        for table in TABLES_DEFAULT:
            if lake.find(table) is not None:
                rows = in_lake(lake, table)
                assert len(rows) == len(set(rows)), seed
                assert set(rows) <= set(in_copies(*copies, table=table)), seed
    assert killed, "or this proves nothing"
    for folder in folders:
        code, output = run("export", "--in", str(folder), "--lake", url, environ=environ)
        assert code == 0, output
    for table in TABLES_DEFAULT:
        assert in_lake(lake, table) == in_copies(*copies, table=table), seed
