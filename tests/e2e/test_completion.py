"""What the Tab key gives, in real shells: the completed line is run, and answers."""

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.records import new_database
from support.terminal import conversation

from edge_store.cli.completion import completion
from edge_store.saved import SaveQuery, save_query

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(edge-store completion bash)"'),
    "zsh": (["zsh", "-f", "-i"],
            'autoload -U compinit; compinit -D; eval "$(edge-store completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "edge-store completion fish | source"),
}  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    connection, _ = new_database(tmp_path / "a.db")
    with closing(connection):
        save_query(connection, SaveQuery(name="count-7", sql="select 7 as saved"))
    return tmp_path / "a.db"


def environment(home: Path, **more: str) -> dict[str, str]:
    """One in which `edge-store` is the one at hand."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8", **more}


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_commands_options_tables_columns_and_saved_queries(
    database: Path, tmp_path: Path, shell: str
) -> None:
    command, setup = SHELLS[shell]
    asked = f"edge-store query --db {database}"
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    conversation(
        command,
        environment(tmp_path),
        [
            ("", f'{setup}; echo SET"UP"\r'),
            ("SETUP", "edge-store quer\t"),
            ("query", f'--db {database} "select 1 as a, count(*) as n from devic\t'),
            ('device"', " --nl --fail-e\t"),
            ("--fail-empty", "\r"),
            ('{"a":1,"n":1}', f'{asked} "select * from device order by onl\t'),
            ('only"', " --raw device_id\r"),
            ("box-test", f"{asked} @cou\t"),
            ("@count-7", " --nl\r"),
            ('{"saved":7}', "exit\r"),
        ],
    )  # fmt: skip


def complete(database: Path, words: list[str]) -> list[str]:
    """What is offered for the last of the words."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "edge-store")],
        env=environment(
            database.parent,
            _EDGE_STORE_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(["edge-store", *words]),
            COMP_CWORD=str(len(words)),
        ),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_a_statement_goes_on_with_what_the_database_has(database: Path) -> None:
    query = ["query", "--db", str(database)]
    assert complete(database, [*query, '"select output_t']) == [
        "select output_text",
        "select output_tokens",
    ]
    assert complete(database, [*query, '"select * from usage_by_d']) == [
        "select * from usage_by_day"
    ]
    assert complete(database, [*query, '"select x.dev']) == ["select x.device_id"]
    assert complete(database, ["query", "--db", f"{database}.absent", '"select dev']) == []
    assert complete(database, ["query", "--db", str(database), "@", "co"]) == ["@count-7"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_for_its_shell(shell: str) -> None:
    done = CliRunner().invoke(completion, [shell])
    assert done.exit_code == 0
    assert f"{shell}_complete" in done.stdout
