"""Images and audio leave a body and come back: byte for byte, whatever the body is."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.records import make_result, new_database

from edge_store.blobs import BODY_BYTES_MIN, joined, split
from edge_store.chain import verify_chain
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.result import Boot, Content
from edge_store.rows import load_recorded
from edge_store.sql import sql
from edge_store.sqlite import Connection

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 32
LONG = base64.b64encode(IMAGE)
DATA = st.sampled_from([IMAGE, IMAGE[::-1], bytes(4096), bytes(4095), b"\xff" * 9000])
ENCODED = st.one_of(
    DATA.map(base64.b64encode),
    DATA.map(lambda data: base64.b64encode(data).replace(b"/", b"\\/")),
    DATA.map(base64.urlsafe_b64encode),
    DATA.map(base64.encodebytes),
    DATA.map(lambda data: base64.b64encode(data).rstrip(b"=")),
    DATA.map(lambda data: b"data:image/png;base64," + base64.b64encode(data)),
    DATA.map(lambda data: b"data:image\\/png;base64," + base64.b64encode(data)),
    DATA.map(lambda data: b"data:," + base64.b64encode(data)),
)
# what is between them: JSON, pieces of it, quotes alone, and anything
PIECES = st.one_of(
    ENCODED,
    ENCODED.map(lambda text: b'"' + text + b'"'),
    st.sampled_from([b'"', b'""', b"\\", b'\\"', b"=", b"data:", b";base64,", b'{"url": "', b","]),
    st.binary(max_size=40),
)
BODIES = st.lists(PIECES, max_size=8).map(b"".join)


def put_together(body: bytes) -> bytes:
    left, parts = split(body)
    assert len(left) == len(body) or parts
    return joined(left, [(part.offset, part.is_escaped, part.data) for part in parts])


@given(body=BODIES)
@example(body=b'"' + LONG + b'"' + LONG + b'"')
@example(body=LONG)
@example(body=LONG + LONG)
@example(body=b'"' + LONG[:-1] + b'\n"')
@settings(deadline=None)
def test_what_was_split_is_joined_to_what_it_was(body: bytes) -> None:
    assert put_together(body) == body


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Connection, Boot]]:
    connection, boot = new_database(tmp_path_factory.mktemp("blobs") / "results.db")
    yield connection, boot
    connection.close()


@given(bodies=st.lists(BODIES, min_size=1, max_size=4), deletes=st.data())
@settings(deadline=None, max_examples=60)
def test_every_body_is_read_back_and_only_what_is_used_stays(
    database: tuple[Connection, Boot], bodies: list[bytes], deletes: Any
) -> None:
    connection, boot = database
    seq = read_head(connection).seq
    results = [
        make_result(seq + n, boot.boot_id, content=Content(
            input_text=None, request_body=body, response_body=b"{}",
        ))
        for n, body in enumerate(bodies, 1)
    ]  # fmt: skip
    write_batch(connection, boot, read_head(connection), seq + len(bodies), results)
    cursor = connection.execute("SELECT * FROM results ORDER BY seq")
    stored = {
        each.seq: each.result.content.request_body for each in load_recorded(connection, cursor)
    }
    assert [stored[seq + n] for n in range(1, len(bodies) + 1)] == bodies
    assert verify_chain(connection).faults == ()
    what = deletes.draw(st.sampled_from(What))
    delete_results(connection, list(stored), Reason.FORGET, what)
    assert verify_chain(connection).faults == ()
    assert connection.execute("SELECT count(*) FROM blobs").fetchone() == (0,)
    delete_results(connection, list(stored), Reason.FORGET)


DATA_URL = "data:image/png;base64," + LONG.decode()
SHAPES: dict[str, Any] = {
    "image_url": {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": DATA_URL}}]}]},
    "input_audio": {"messages": [{"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": LONG.decode(), "format": "wav"}}]}]},
    "input_image": {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": DATA_URL}]}]},
    "anthropic": {"messages": [{"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": LONG.decode()}}]}]},
    "ollama": {"messages": [{"role": "user", "content": "x", "images": [LONG.decode()]}]},
    "sglang": {"text": "x", "image_data": [DATA_URL]},
    "sglang alone": {"text": "x", "image_data": LONG.decode()},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_escaped", [False, True])
def test_each_protocol_s_image_is_stored_once(shape: str, *, is_escaped: bool) -> None:
    body = json.dumps(SHAPES[shape]).encode()
    if is_escaped:  # as PHP and some others write it
        body = body.replace(b"/", b"\\/")
    left, (part,) = split(body)
    assert (part.data, part.media_type) == (IMAGE, "image/png")
    assert len(left) < 200
    assert put_together(body) == body


@given(before=st.integers(0, 20_000), size=st.integers(4096, 9000), after=st.integers(0, 20_000))
@settings(deadline=None)
def test_none_is_overlooked_wherever_it_is(before: int, size: int, after: int) -> None:
    data = (IMAGE * 2)[:size]
    body = b" " * before + b'"' + base64.b64encode(data) + b'"' + b" " * after
    assert [part.data for part in split(body)[1]] == [data]
    assert put_together(body) == body


def test_a_text_is_left_as_it_is() -> None:
    long = json.dumps({"messages": [{"role": "user", "content": "What is an outbox? " * 2000}]})
    assert split(long.encode()) == (long.encode(), ())
    small = b"x" * (BODY_BYTES_MIN - 1)
    assert split(small)[0] is small


def test_what_was_changed_of_an_image_is_found(database: tuple[Connection, Boot]) -> None:
    connection, boot = database
    head = read_head(connection)
    made = make_result(head.seq + 1, boot.boot_id, content=Content(
        input_text=None, request_body=b'["%b", "%b"]' % (LONG, LONG), response_body=b"{}",
    ))  # fmt: skip
    write_batch(connection, boot, head, head.seq + 1, [made])
    assert connection.execute("SELECT count(*) FROM blobs").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM request_blobs").fetchone() == (2,)
    for change in (
        "UPDATE blobs SET bytes = zeroblob(5000)",
        "DELETE FROM request_blobs WHERE place = 1",
        "UPDATE request_blobs SET byte_offset = 1",
        "UPDATE request_blobs SET is_escaped = 1",
    ):
        connection.execute(sql("begin"))
        connection.execute(change)
        assert len(verify_chain(connection).faults) == 1
        connection.execute(sql("rollback"))
    assert verify_chain(connection).faults == ()
    delete_results(connection, [head.seq + 1], Reason.FORGET)
