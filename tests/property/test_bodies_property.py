"""A response whose text was taken out is read as it came: by us, and by SQL alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import make_result, new_database

from edge_store.bodies import TEXT_CHARS_MIN
from edge_store.chain import SEQ_MAX, check_rows
from edge_store.recorder.batch import read_head, write_batch
from edge_store.result import Boot, Content, Output, Receipt
from edge_store.rows import load_recorded
from edge_store.sqlite import Connection

# any text, of a length at which it is taken out, or just not
TEXTS = st.builds(
    lambda text, more: (text * (TEXT_CHARS_MIN // len(text) + 1))[: TEXT_CHARS_MIN + more],
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80),
    st.integers(-2, 40),
)
READS = """
import json, sqlite3, sys
other = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(json.dumps(dict(other.execute("SELECT seq, hex(response_body) FROM bodies"))).lower())
"""
AROUND = st.one_of(st.binary(max_size=40), st.sampled_from([b'{"content":"', b'"', b"\\", b"\x00"]))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Connection, Boot]]:
    path = tmp_path_factory.mktemp("bodies") / "results.db"
    connection, boot = new_database(path)
    yield path, connection, boot
    connection.close()


def write(
    connection: Connection,
    boot: Boot,
    text: str,
    response: bytes,
    *,
    stream: bool = False,
    choice: int = 0,
) -> int:
    head = read_head(connection)
    result = make_result(
        head.seq + 1,
        boot.boot_id,
        stream=stream,
        outputs=(Output(choice_index=choice, output_text=text),),
        content=Content(input_text=None, request_body=b"{}", response_body=response),
    )
    (receipt,) = write_batch(connection, boot, head, head.seq + 1, [result]).outcomes
    assert isinstance(receipt, Receipt), receipt
    return receipt.seq


@settings(max_examples=300, deadline=None)
@given(
    text=TEXTS, before=AROUND, after=AROUND, times=st.integers(0, 2), stream=st.booleans(),
    choice=st.integers(0, 1),
)  # fmt: skip
def test_a_response_is_read_as_it_came(
    database: tuple[Path, Connection, Boot],
    text: str, before: bytes, after: bytes, times: int, *, stream: bool, choice: int,
) -> None:  # fmt: skip
    _path, connection, boot = database
    response = before + after.join([msgspec.json.encode(text)] * times) + after

    seq = write(connection, boot, text, response, stream=stream, choice=choice)

    cursor = connection.execute("SELECT * FROM results WHERE seq = ?", (seq,))
    (recorded,) = load_recorded(connection, cursor)
    assert recorded.result.content.response_body == response
    read = "SELECT response_body FROM bodies WHERE seq = ?"
    assert connection.execute(read, (seq,)).fetchone() == (response,)
    kept, place = connection.execute(
        "SELECT response_body, output_at FROM requests WHERE seq = ?", (seq,)
    ).fetchone()
    is_taken = not (stream or choice) and times > 0 and len(text) >= TEXT_CHARS_MIN
    assert (place is not None) is is_taken
    assert (len(kept) < len(response)) is is_taken


def test_other_programs_read_them_so_and_the_chain_of_them_holds(
    database: tuple[Path, Connection, Boot],
) -> None:
    """Another SQLite, in a process of its own."""
    path, connection, boot = database
    came = {}
    for text in ("plain " * 60, 'q"\\\n\t\x00\x7f' * 60, "\u2028\U0001f600\ufeff字" * 60):
        written = msgspec.json.encode(text)
        for response in (written, b"\x00" + written + written, b"\xff" + written + b"}"):
            seq = write(connection, boot, text, response)
            came[str(seq)] = response.hex()
    command = [sys.executable, "-c", READS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read = json.loads(done.stdout)
    assert {seq: read[seq] for seq in came} == came

    verify = [sys.executable, "-m", "edge_store", "verify", str(path)]
    assert check_rows(connection, 1, SEQ_MAX) == []
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    connection.execute("UPDATE requests SET output_at = output_at - 1 WHERE seq = ?", (seq,))
    assert len(check_rows(connection, 1, SEQ_MAX)) == 1
    tampered = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert tampered.returncode == 65
    assert "is not as it was committed" in tampered.stdout + tampered.stderr
