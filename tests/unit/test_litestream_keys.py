"""Every key that we may write is one that the pinned Litestream knows: it accepts any other too."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_store.replica.keys import KNOWN, unknown_keys
from edge_store.replica.litestream import find_litestream


def refused(folder: Path, lines: list[str]) -> set[int]:
    """Which of the lines, from 1, litestream refuses for the kind of their value."""
    config = folder / "litestream.yml"
    config.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [find_litestream().path, "databases", "-no-expand-env", "-config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.findall(r"line (\d+): cannot unmarshal", done.stdout + done.stderr)
    return {int(number) for number in found}


def tables() -> Iterator[tuple[list[str], Any]]:
    """Each table, with the lines that lead to it."""
    yield [], KNOWN
    for name, inner in KNOWN.items():
        if isinstance(inner, list):
            yield [f"{name}:", "-"], inner[0]
        elif inner:
            yield [f"{name}:"], inner
    yield ["dbs:", "- path: /x", "  replica:"], KNOWN["dbs"][0]["replica"]


def test_litestream_knows_every_key_of_the_list_and_accepts_a_misspelt_one(tmp_path: Path) -> None:
    for leading, known in tables():
        indent = "  " * (0 if not leading else 2 if leading[-1].startswith("  ") else 1)
        values = [name for name, inner in known.items() if not inner]
        lines = [*leading, *(f"{indent}{name}: [wrong]" for name in values)]
        numbers = refused(tmp_path, [*lines, f"{indent}misspelt: [wrong]"])
        assert numbers == set(range(len(leading) + 1, len(lines) + 1)), (leading, values)
    for name, inner in KNOWN.items():
        if inner:  # the first that is of another kind hides the rest
            assert refused(tmp_path, [f"{name}: wrong"]) == {1}, name
    assert refused(tmp_path, ["dbs:", "- replica: wrong"]) == {2}


def test_unknown_keys_are_named_with_their_path() -> None:
    config = {"l0-retension": "15m", "socket": {"enabled": True}, "dbs": [{"replica": {"kind": 1}}]}
    assert list(unknown_keys(config)) == ["l0-retension", "dbs[].replica.kind"]
