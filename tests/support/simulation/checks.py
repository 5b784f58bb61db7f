"""What must hold after each boot, whatever the seed did."""

from itertools import pairwise
from typing import Any

from support.scripted import read_results
from support.simulation.world import BEAT_S, Call, Life

from edge_store.chain import verify_chain
from edge_store.result import Recorded
from edge_store.sqlite import check_integrity, open_reader

__all__ = ["check"]

DELAY_MAX_S = 0.1  # of a mark, when no commit was slow
ROUNDING_MS = 0.01


def check(life: Life) -> None:
    """Raises ``AssertionError`` on a broken promise."""
    assert not life.wrong, life.wrong
    stored = {}
    for recorded in read_results(life.world.path):
        if recorded.result.boot_id == life.boot.boot_id:
            number = int((recorded.result.content.input_text or "").split()[0])
            assert number not in stored, f"request {number} is stored twice"
            stored[number] = recorded
    admitted = {n for n, call in life.calls.items() if call.admitted_at is not None}
    assert len(admitted) == life.admitted_upto, "admission numbers have holes"
    assert stored.keys() <= admitted, "stored, but never admitted"
    for number, call in life.calls.items():
        _check_call(call, stored.get(number))
        if number in admitted - stored.keys() and not life.is_dead:
            _check_told(call)
    for recorded in stored.values():
        _check_durations(life, recorded)
    ordered = sorted((r.result for r in stored.values()), key=lambda result: result.boot_seq)
    ids = [result.id for result in ordered]
    assert all(earlier < later for earlier, later in pairwise(ids)), "ids go back"
    _check_losses(life, admitted, {result.id for result in ordered})
    _check_counts(life, [result.boot_seq for result in ordered])
    _check_deletions(life)
    _check_file(life)


def _check_call(call: Call, recorded: Recorded | None) -> None:
    """What one caller saw is what is stored."""
    name = f"request {call.number}"
    headers, body = call.headers, call.body
    if call.messages and "x-edge-store-id" not in headers:
        assert recorded is None or call.admitted_at is not None, f"{name} was refused, and stored"
        assert call.status is not None
        assert call.status >= 400, f"{name}: {call.status} without an id"
        return
    comment = b""
    if b": committed id=" in body:
        at = body.index(b": committed id=")
        comment = body[at : body.index(b"\n\n", at) + 2]
        words = dict(word.split(b"=") for word in comment.split()[2:])
        assert recorded is not None, f"{name} was acknowledged, and is lost"
        assert words[b"id"].decode() == recorded.result.id
        assert int(words[b"seq"]) == recorded.seq
    if b"data: [DONE]" in body:
        assert comment, f"{name}: the end of the stream came without its commit"
    if headers.get("x-edge-store-durability") == "committed" and call.is_finished:
        assert recorded is not None, f"{name} was acknowledged, and is lost"
        assert int(headers["x-edge-store-seq"]) == recorded.seq
    elif call.is_finished and not call.stream:
        assert call.status is not None
        assert call.status >= 500, f"{name}: {call.status} without a commit"
    if recorded is not None and recorded.result.status == "completed":
        seen, kept = body.replace(comment, b""), _without_usage(recorded)
        is_error = (call.status or 0) >= 500 or b'"error"' in body
        if not is_error:
            whole = call.is_finished and not call.has_left
            assert seen == kept if whole else kept.startswith(seen), f"{name}: other bytes"


def _check_told(call: Call) -> None:
    """An outcome that could not be stored: its caller, if there still was one, got an error."""
    assert call.life.failures > 0, f"request {call.number} has no row, and no commit failed"
    if not (call.has_left or call.was_given_up):
        is_told = (call.status or 0) >= 500 or b'"error"' in call.body
        assert is_told, f"request {call.number} has no row, and nobody was told"


def _without_usage(recorded: Recorded) -> bytes:
    """What the engine sent, but for the event with the usage, which only the recorder asked for."""
    events = recorded.result.content.response_body.split(b"\n\n")
    return b"\n\n".join(event for event in events if b'"choices":[]' not in event)


def _check_durations(life: Life, recorded: Recorded) -> None:
    result = recorded.result
    number = int((result.content.input_text or "").split()[0])
    call = life.calls[number]
    assert call.admitted_at is not None
    assert call.ended_at is not None
    truth_ms = (call.ended_at - call.admitted_at) * 1000
    assert abs(result.latency_ms - truth_ms) < ROUNDING_MS, (number, result.latency_ms, truth_ms)
    assert result.completed_at - result.created_at == round(result.latency_ms)
    assert result.queue_ms >= 0
    assert result.ttft_ms is None or 0 <= result.ttft_ms <= result.latency_ms + ROUNDING_MS
    assert result.clock_synced >= life.boot.clock_synced, "once synced, it stays so"


def _check_losses(life: Life, admitted: set[int], stored: set[str]) -> None:
    """After a stop that could write, what is not stored is a row of ``losses``."""
    connection = open_reader(life.world.path)
    try:
        lost = [row[0] for row in connection.execute(
            "SELECT id FROM losses WHERE boot_id = ?", (life.boot.boot_id,)
        )]  # fmt: skip
    finally:
        connection.close()
    assert len(set(lost)) == len(lost), "a loss is told twice"
    assert stored.isdisjoint(lost), "stored, and told to be lost"
    if life.has_ended and not life.last_mark_failed:
        assert len(stored) + len(lost) == len(admitted), "neither stored nor told to be lost"


def _check_counts(life: Life, numbers: list[int]) -> None:
    """``completeness`` says of this boot what happened."""
    row = _completeness(life)
    assert len(numbers) == row["completed"] + row["incomplete"] + row["failed"] + row["cancelled"]
    assert len(set(numbers)) == len(numbers)
    missing = sum(row[name] for name in ("in_flight", "interrupted", "not_stored", "lost"))
    assert missing == row["admitted"] - len(numbers) >= 0
    if life.has_ended and life.failures == 0:
        assert row["state"] == "ended"
        assert row["admitted"] == life.admitted_upto == len(numbers), "not each has its row"
    if life.has_ended and not life.last_mark_failed:
        assert row["admitted"] == life.admitted_upto, "it ended without its last mark"
    if life.is_dead:
        assert max(numbers, default=0) <= row["admitted"] <= life.admitted_upto
        if life.failures == 0 and not life.was_slow:
            horizon = life.crashed_at - 2 * BEAT_S - DELAY_MAX_S
            before = [
                call
                for call in life.calls.values()
                if call.admitted_at is not None and call.admitted_at < horizon
            ]
            assert row["admitted"] >= len(before), "the marks are older than their beat"


def _check_deletions(life: Life) -> None:
    """Each result is there or a tombstone is, and what was told to be deleted is not there."""
    connection = open_reader(life.world.path)
    try:
        live = [seq for (seq,) in connection.execute("SELECT seq FROM results")]
        gone = [seq for (seq,) in connection.execute("SELECT seq FROM deletions")]
        (last,) = connection.execute("SELECT max(seq_to) FROM commits").fetchone()
    finally:
        connection.close()
    assert sorted(live + gone) == list(range(1, (last or 0) + 1)), (
        "neither there nor deleted, or both"
    )
    assert set(life.deleted) <= set(gone), "a deletion was acknowledged, and is lost"


def _completeness(life: Life) -> dict[str, Any]:
    connection = open_reader(life.world.path)
    try:
        cursor = connection.execute(
            "SELECT * FROM completeness WHERE boot_id = ?", (life.boot.boot_id,)
        )
        names = [column[0] for column in cursor.description]
        (row,) = cursor.fetchall()
        return dict(zip(names, row, strict=True))
    finally:
        connection.close()


def _check_file(life: Life) -> None:
    connection = open_reader(life.world.path)
    try:
        found = check_integrity(connection)
        assert found == "ok", found
        faults = verify_chain(connection).faults
        assert faults == (), faults
    finally:
        connection.close()
