"""A receipt says where a result is, how far it has come, or what became of it."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from support.records import DEVICE, make_result, new_database

import edge_store.receipt
from edge_store.cli.receipt_text import described
from edge_store.clock import now_ms, rfc3339
from edge_store.errors import InvalidRequest
from edge_store.identity import create_identity
from edge_store.ids import new_result_id
from edge_store.lock import LastBoot
from edge_store.receipt import (
    Receipt,
    ReplicaUnknown,
    State,
    read_receipt,
)
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.boot import begin_boot, end_boot
from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.replica.status import Confirmed, ReplicaState, ReplicaStatus
from edge_store.result import Boot, Result


class Box:
    """A database in several boots; replication is off unless a test says otherwise."""

    def __init__(self, path: Path) -> None:
        self.connection, self.boot = new_database(path)

    def boot_again(self) -> Boot:
        self.boot = begin_boot(
            self.connection, device_id=DEVICE, version="0", engine="demo", engine_version="0"
        )
        return self.boot

    def commit(self, admitted_upto: int, *boot_seqs: int) -> list[Result]:
        results = [make_result(n, self.boot.boot_id) for n in boot_seqs]
        head = read_head(self.connection)
        write_batch(self.connection, self.boot, head, admitted_upto, results)
        return results

    def receipt(
        self,
        result_id: str,
        replica: ReplicaStatus | ReplicaUnknown | None = None,
        last_boot: LastBoot = LastBoot.GOES_ON,
    ) -> Receipt:
        found = read_receipt(self.connection, result_id, replica, last_boot)
        assert not self.connection.in_transaction
        return found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "results.db")
    yield box
    box.connection.close()


def status(lag_s: float = 0.0, confirmed: Confirmed | None = None) -> ReplicaStatus:
    return ReplicaStatus(
        state=ReplicaState.OK,
        txid=9,
        replicated_txid=9,
        last_synced_at=None,
        lag_s=lag_s,
        error=None,
        confirmed=confirmed,
    )


def text(receipt: Receipt, name: str) -> str:
    return dict(described(receipt))[name]


def test_every_result_finds_the_commit_that_carried_it(box: Box) -> None:
    written: list[Result] = []
    for size in (1, 0, 3, 0, 0, 2, 1, 0):  # marks lie between the commits that carry
        first = len(written) + 1
        written += box.commit(first + size, *range(first, first + size))
    for seq, result in enumerate(written, 1):
        found = box.receipt(result.id)
        assert found.state is State.COMMITTED
        assert found.committed is not None
        ((commit_id, digest, row_digest),) = box.connection.execute(
            "SELECT c.commit_id, hex(c.digest), hex(r.digest) FROM commits AS c JOIN results AS r "
            "ON r.seq BETWEEN c.seq_from AND c.seq_to WHERE r.seq = ?",
            (seq,),
        )
        assert (found.committed.seq, found.committed.commit_id) == (seq, commit_id)
        assert found.committed.commit_digest == digest.lower()
        assert found.committed.digest == row_digest.lower()


def test_replicated_is_said_of_what_a_sync_has_confirmed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = box.commit(2, 1, 2)
    confirmed = Confirmed(seq=1, txid=66, at=1_760_000_000_000)
    found = box.receipt(early.id, status(confirmed=confirmed))
    assert text(found, "replicated") == "by 2025-10-09T08:53:20.000Z with TXID 0000000000000042"
    found = box.receipt(late.id, status(lag_s=1.23, confirmed=confirmed))
    assert text(found, "replicated") == "not yet, lag 1.2 s"
    monkeypatch.setattr(edge_store.receipt, "now_ms", lambda: now_ms() + 90_000)
    found = box.receipt(late.id, status(confirmed=confirmed))
    assert found.replicated is not None
    assert found.replicated.lag_s is not None
    assert 90 <= found.replicated.lag_s < 120, "it waits since its commit"
    assert text(box.receipt(late.id), "replicated") == "replication is off"
    found = box.receipt(late.id, ReplicaUnknown("nobody says"))
    assert text(found, "replicated") == "not known: nobody says"


def test_proven_is_the_newest_passed_drill_that_reached_it(box: Box) -> None:
    (first,) = box.commit(1, 1)
    create_identity(box.connection, "", reason="restored")
    box.boot_again()
    (second,) = box.commit(1, 1)
    assert text(box.receipt(first.id), "proven") == "not yet"
    timelines = [t for (t,) in box.connection.execute("SELECT timeline FROM timelines")]
    drills = [
        (1000, timelines[0], 9, 1, None),  # on the old timeline: its seq 2 was another result
        (2000, timelines[1], 1, 1, None),
        (3000, timelines[1], 2, 0, "lost"),  # it failed
        (4000, timelines[1], 2, 1, "forged in both"),  # an earlier version let it pass
    ]
    box.connection.executemany(
        "INSERT INTO drills (at, timeline, seq_to, rows, duration_ms, passed, failure) "
        "VALUES (?, ?, ?, 1, 1, ?, ?)",
        drills,
    )
    assert text(box.receipt(first.id), "proven") == "1970-01-01T00:00:02.000Z by restore drill 2"
    assert text(box.receipt(second.id), "proven") == "not yet"


def test_deleted_result_says_why_and_where_it_was(box: Box) -> None:
    (_, gone) = box.commit(2, 1, 2)
    delete_results(box.connection, [2], Reason.FORGET)
    found = box.receipt(gone.id, status())
    assert found.state is State.DELETED
    assert found.message.startswith("deleted on 20")
    assert found.message.endswith("because of forget")
    assert found.committed is not None
    assert (found.committed.seq, found.committed.commit_id) == (2, 1)


def test_loss_says_its_code(box: Box) -> None:
    box.commit(1, 1)
    lost = new_result_id()
    box.connection.execute(
        "INSERT INTO losses (at, boot_id, boot_seq, id, code, message) "
        "VALUES (1760000000000, ?, 2, ?, 'disk_full', 'no space left')",
        (box.boot.boot_id, lost),
    )
    found = box.receipt(lost)
    assert found.state is State.LOST
    assert found.message == (
        "lost: it could not be stored (disk_full), given up at 2025-10-09T08:53:20.000Z"
    )
    assert text(found, "error") == "no space left"


def test_unknown_id_names_the_boot_that_was_cut(box: Box) -> None:
    first = Box.boot_again(box)
    box.commit(2, 1)
    interrupted = new_result_id()
    box.boot_again()
    found = box.receipt(interrupted)
    assert found.state is State.LOST
    assert found.gone is not None
    assert found.gone.boot_no == 2
    ((marked_at,),) = box.connection.execute(
        "SELECT unknown_after FROM completeness WHERE boot_id = ?", (first.boot_id,)
    )
    assert found.message.startswith(
        f"lost: no such id on this device, boot 2 was cut at {marked_at} or later, before 20"
    )
    assert "may be in flight" in box.receipt(new_result_id()).message
    end_boot(box.connection, box.boot)
    assert box.receipt(new_result_id()).message == "no such id, and no boot was cut then"


def test_id_from_before_the_last_mark_of_a_cut_that_lost_nothing_was_never_here(box: Box) -> None:
    never = new_result_id()
    box.commit(1, 1)
    box.connection.execute(
        "UPDATE commits SET at = ?",
        ((UUID(never).int >> 80) + 5000,),  # a mark after it was made
    )
    box.boot_again()
    assert box.receipt(never).message == "no such id, and no boot was cut then"


def test_boot_without_an_end_is_cut_when_no_daemon_goes_on_in_it(box: Box) -> None:
    box.commit(2, 1)
    ((at,),) = box.connection.execute("SELECT at FROM commits")
    missing = new_result_id()
    assert "may be in flight" in box.receipt(missing).message
    found = box.receipt(missing, last_boot=LastBoot.CUT)
    assert found.state is State.LOST
    assert found.message == (
        f"lost, or never given: no such id on this device, boot 1 was cut at {rfc3339(at)} or "
        "later: it has no end, and no daemon answers"
    )
    found = box.receipt(missing, last_boot=LastBoot.COPIED)
    assert found.state is State.UNKNOWN
    assert "a copy has no daemon" in found.message


def restore(box: Box, newest_at: int, restored_at: int) -> None:
    """The file ends at ``newest_at``, with one in flight, and was restored later."""
    box.connection.execute("UPDATE boots SET at = ?", (newest_at - 1000,))
    box.connection.execute("UPDATE commits SET at = ?", (newest_at,))
    create_identity(box.connection, "", reason="restored")
    box.connection.execute(
        "UPDATE timelines SET started_at = ? WHERE reason = 'restored'", (restored_at,)
    )


def made(at: int) -> str:
    return str(UUID(int=at << 80 | 7 << 76 | 2 << 62))


@pytest.mark.parametrize("is_started", [False, True])
def test_what_was_answered_between_the_newest_commit_and_the_restore_is_unknown(
    box: Box,
    is_started: bool,  # noqa: FBT001  (drawn)
) -> None:
    box.commit(2, 1)
    now = now_ms()
    box.connection.execute("UPDATE boots SET boot_id = ?", (made(now - 99_000),))
    box.connection.execute("UPDATE commits SET boot_id = ?", (made(now - 99_000),))
    box.connection.execute("UPDATE results SET boot_id = ?", (made(now - 99_000),))
    restore(box, now - 50_000, now - 10_000)
    if is_started:
        box.boot_again()
    expected = (
        f"unknown: this file was restored on {rfc3339(now - 10_000)}; what was answered after "
        f"{rfc3339(now - 50_000)} is not in it"
    )
    for age_ms in (10_000, 30_000, 49_999, 60_000):  # the last one was in flight then
        for last_boot in LastBoot:
            found = box.receipt(made(now - age_ms), last_boot=last_boot)
            assert (found.state, found.message) == (State.UNKNOWN, expected), age_ms
    assert expected not in box.receipt(made(now - 200_000)).message
    assert is_started == (expected not in box.receipt(made(now_ms() + 1)).message)


CHANGES = (
    "UPDATE outputs SET output_text = 'other' WHERE seq = 2",
    "UPDATE requests SET response_body = x'ff' WHERE seq = 2",
    "UPDATE results SET latency_ms = 1 WHERE seq = 2",
    "UPDATE results SET timeline = 'other' WHERE seq = 2",
    "UPDATE results SET digest = x'00' WHERE seq = 2",
    "UPDATE results SET digest = x'00' WHERE seq = 1",  # another one of the same commit
    "UPDATE commits SET at = at + 1",
    "DELETE FROM commits",
)


@pytest.mark.parametrize("statement", CHANGES)
def test_what_is_not_as_it_was_committed_is_not_called_committed(box: Box, statement: str) -> None:
    (_, result) = box.commit(2, 1, 2)
    assert box.receipt(result.id).state is State.COMMITTED
    assert box.connection.execute(statement).rowcount
    found = box.receipt(result.id, status())
    assert found.state is State.CHANGED
    assert found.message.endswith("see `edge-store verify`")
    assert [name for name, _text in described(found)] == ["receipt", "state"]


def test_result_whose_content_expired_is_as_it_was_committed(box: Box) -> None:
    (first, second) = box.commit(2, 1, 2)
    delete_results(box.connection, [1], Reason.RETENTION, What.CONTENT)
    delete_results(box.connection, [2], Reason.FORGET)
    assert box.receipt(first.id).state is State.COMMITTED
    assert box.receipt(second.id).state is State.DELETED


def test_id_is_found_however_it_was_written_down(box: Box) -> None:
    (result,) = box.commit(1, 1)
    for text in (result.id.upper(), result.id.replace("-", ""), f"{{{result.id}}}"):
        found = box.receipt(text)
        assert (found.id, found.state) == (result.id, State.COMMITTED)


@pytest.mark.parametrize(
    "text", ["", "x", "'", "0" * 36, "00000000-0000-4000-8000-000000000000", "é", "\udcff" * 32]
)
def test_what_is_no_id_of_ours_is_refused(box: Box, text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not the id of a result") as refused:
        box.receipt(text)
    assert str(refused.value).isprintable()


def test_id_older_than_the_box_is_unknown(box: Box) -> None:
    found = box.receipt("00000000-0001-7000-8000-000000000000")
    assert found.message == (
        "its time (1970-01-01T00:00:00.001Z) is before the first boot here: no id of this device"
    )


def test_id_of_the_future_is_unknown(box: Box) -> None:
    at = now_ms() + 90_000
    found = box.receipt(made(at))
    assert found.state is State.UNKNOWN
    when = rfc3339(at)
    assert found.message == (
        f"its time ({when}) is ahead of the clock: no id of this device, unless its clock was"
    )
    found = box.receipt("ffffffff-ffff-7fff-bfff-ffffffffffff")
    assert "(after the year 9999) is ahead of the clock" in found.message
