"""The documents say what the code says: each test fails when one of them moves alone."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edge_store import errors
from edge_store.cli.main import cli
from edge_store.config import render_toml
from edge_store.config.render import documented_settings
from edge_store.observability.metrics import Metrics
from edge_store.schema import FILES, migrate, statements
from edge_store.sqlite import driver

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


def commands(command: click.Command = cli, path: str = "edge-store") -> Iterator[tuple[str, str]]:
    yield path, command.help or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, f"{path} {name}")


def error_classes(root: type[errors.EdgeStoreError]) -> Iterator[type[errors.EdgeStoreError]]:
    yield root
    for child in root.__subclasses__():
        yield from error_classes(child)


def test_every_command_has_help_with_an_example() -> None:
    for path, text in commands():
        assert re.search(r"^\s+(\w+=\S+ )?edge-store ", text, re.MULTILINE), path


def test_every_option_has_help() -> None:
    def check(command: click.Command, path: str) -> None:
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path} {option.opts}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                check(child, f"{path} {name}")

    check(cli, "edge-store")


def test_every_error_code_heads_a_section_and_no_other_does() -> None:
    codes = {error.code for error in error_classes(errors.EdgeStoreError)}
    assert set(re.findall(r"^### (\w+)$", OPERATIONS, re.MULTILINE)) == codes


def test_every_exit_code_of_an_error_is_in_the_table() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", OPERATIONS, re.MULTILINE)}
    used = {error.exit_code for error in error_classes(errors.EdgeStoreError)}
    assert used <= documented


def test_every_metric_is_documented_and_no_other_is() -> None:
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
    }
    for file in (ROOT / "edge_store").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func) in ("metrics.watch", "metrics.watch_counts")
            ):
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{file}: a metric's name is a literal"
                is_counter = ast.unparse(node.func) == "metrics.watch_counts"
                names.add(f"edge_store_{name.value!s}{'_total' if is_counter else ''}")
    assert set(re.findall(r"^\| `(edge_store_\w+)", OPERATIONS, re.MULTILINE)) == names


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert documented == [key for key, _, _ in documented_settings()]


def test_shipped_configuration_is_the_defaults() -> None:
    shipped = (ROOT / "config/edge-store.toml").read_text(encoding="utf-8")
    assert shipped == render_toml()


def test_every_column_has_a_comment() -> None:
    connection = driver.connect(":memory:", isolation_level=None)
    migrate(connection)
    page = (ROOT / "docs/schema.md").read_text(encoding="utf-8")
    for file in FILES:
        for statement in statements(file):
            found = re.search(r"^CREATE TABLE (\w+)", statement, re.MULTILINE)
            if not found:
                continue
            section = re.search(
                rf"^## {found[1]}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
            )
            assert section, found[1]
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({found[1]})")]
            assert re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE) == columns
    connection.close()


def test_generated_pages_are_fresh() -> None:
    pytest.importorskip("cogapp")
    done = subprocess.run(
        [ROOT / "scripts/docs", "--check"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_promise_names_tests_that_exist() -> None:
    page = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    promises = re.findall(r"^## (\d)\. ", page, re.MULTILINE)
    assert promises == list("12345678")
    tests = re.findall(r"^\| (\d) \| `([\w/.]+)::(\w+)` \|$", page, re.MULTILINE)
    assert {promise for promise, _, _ in tests} == set(promises)
    for promise, file, function in tests:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"\bdef {function}\(", text), f"{promise}: {file}::{function}"
