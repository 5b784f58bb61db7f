"""What a line's results say of it, over every history; and uploads, however they are cut."""

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from edge_store.api.upload import receive
from edge_store.errors import EdgeStoreError, RequestError
from edge_store.queue.files import FileStore
from edge_store.queue.lines import Attempt, LineState, Mark, Standing, counted, standing_of

attempts = st.lists(
    st.builds(
        Attempt,
        st.integers(1, 50),
        st.sampled_from([400, 404, 408, 422, 429, 499, 500, 502, 503, 504]),
        st.sampled_from(["", "engine_refused", "upstream_error", "response_too_large"]),
    ),
    max_size=8,
    unique_by=lambda attempt: attempt.seq,
)
marks = st.none() | st.builds(Mark, st.sampled_from(["refused", "retry"]), st.integers(0, 50))


@given(
    is_completed=st.booleans(), attempts=attempts, mark=marks, attempts_max=st.integers(1, 5),
    more=st.integers(1, 5), data=st.data(),
)  # fmt: skip
def test_a_line_has_one_state_that_more_attempts_only_bring_forward(
    *,
    is_completed: bool,
    attempts: list[Attempt],
    mark: Mark | None,
    attempts_max: int,
    more: int,
    data: st.DataObject,
) -> None:
    def standing(**changes: Any) -> Standing:
        known: dict[str, Any] = {
            "is_completed": is_completed, "attempts": attempts, "mark": mark,
            "attempts_max": attempts_max, **changes,
        }  # fmt: skip
        return standing_of(**known)

    found = standing()
    assert found == standing(attempts=data.draw(st.permutations(attempts)))
    assert (found.state is LineState.COMPLETED) == is_completed
    if found.state is LineState.WAITING:
        assert found.attempts < attempts_max
        assert standing(is_completed=True).state is LineState.COMPLETED
    if found.state is LineState.DEAD:
        assert found.attempts >= attempts_max
        assert standing(attempts_max=found.attempts + more).state is LineState.WAITING
    if found.state in (LineState.DEAD, LineState.REFUSED):
        newest = max([0, *(attempt.seq for attempt in attempts)])
        assert standing(mark=Mark("retry", newest)) == Standing(LineState.WAITING, 0)
    failure = Attempt(100, data.draw(st.sampled_from([400, 502])), "")
    after = standing(attempts=[*attempts, failure])
    assert after.attempts == found.attempts + 1
    assert after.state.is_settled or not found.state.is_settled


@given(st.dictionaries(st.text(max_size=3), st.sampled_from(LineState), max_size=20))
def test_no_line_is_counted_twice(states: dict[str, LineState]) -> None:
    counts = counted({name: Standing(state) for name, state in states.items()}, 30)
    waiting = list(states.values()).count(LineState.WAITING)
    assert counts.completed + counts.failed + waiting == len(states)


def uploaded(body: bytes, cuts: list[int], boundary: str, bytes_max: int) -> tuple[bytes, Any]:
    """Send a body in pieces; what is on the disk then, and the upload."""
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = [body[a:b] for a, b in pairwise(edges)] or [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)}
        for n, piece in enumerate(pieces)
    ]

    async def receive_piece() -> Any:
        return messages.pop(0)

    kind = f"multipart/form-data; boundary={boundary}".encode()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}

    async def run() -> tuple[bytes, Any]:
        with tempfile.TemporaryDirectory() as name:
            store = FileStore(Path(name) / "results.db")
            try:
                upload = await receive(Request(scope, receive_piece), store, bytes_max, 5.0)
            except EdgeStoreError:
                assert list(store.folder.glob("*")) + list(store.folder.glob(".*")) == []
                raise
            (path,) = store.folder.iterdir()
            found = path.read_bytes(), upload
            upload.file.discard()
            return found

    return asyncio.run(run())


@settings(deadline=None, max_examples=60)
@given(content=st.binary(max_size=300), cuts=st.lists(st.integers(0, 600), max_size=8))
def test_an_upload_is_its_bytes_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    content = content.replace(b"--b", b"++b")
    body = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n'
        b"content-type: application/octet-stream\r\n\r\n" + content + b"\r\n--b--\r\n"
    )
    on_disk, upload = uploaded(body, cuts, "b", 1000)
    assert on_disk == content
    assert (upload.file.bytes, upload.filename) == (len(content), "in.jsonl")
    assert upload.fields == {"purpose": "batch"}


@settings(deadline=None, max_examples=100)
@given(
    body=st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [b"--b", b"\r\n", b"--", b'content-disposition: form-data; name="file"', b"x", b":"]
        ),
        max_size=12,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=4),
)
def test_what_is_no_form_is_refused_and_leaves_nothing(body: bytes, cuts: list[int]) -> None:
    try:
        uploaded(body, cuts, "b", 1000)
    except RequestError:
        return


def test_an_upload_is_no_larger_than_it_may_be() -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n' + b"x" * 2000
    with pytest.raises(RequestError, match="over 1000 bytes"):
        uploaded(body, [900, 1500], "b", 1000)
