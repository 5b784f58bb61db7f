"""A head counts without looking at the whole table, and is believed only of its own file."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.replicating import Database

from edge_store.recorder.deletions import Reason, What, delete_results
from edge_store.replica.heads import Counted, Head, Heads, is_of_file, read_head
from edge_store.replica.location import parse_location
from edge_store.replica.objects import Objects
from edge_store.result import Boot


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "results.db", "box-1")
    yield database
    database.close()


def head_of(box: Database, before: Counted | None = None) -> tuple[Head, Counted]:
    (seq,) = box.connection.execute("SELECT coalesce(max(seq_to), 0) FROM commits").fetchone()
    return read_head(box.connection, box.boot, 7, seq, before)


def test_rows_stay_exact_over_results_and_deletions_of_every_kind(box: Database) -> None:
    chance = random.Random(1)
    counted: Counted | None = None
    for _ in range(40):
        for _ in range(chance.randrange(3)):
            match chance.randrange(3):
                case 0:
                    box.write(chance.randrange(1, 6))
                case _:
                    seqs = [chance.randrange(1, 120) for _ in range(chance.randrange(1, 9))]
                    delete_results(
                        box.connection,
                        seqs,
                        chance.choice(list(Reason)),
                        chance.choice([What.RESULT, What.RESULT, What.CONTENT]),
                    )
        head, counted = head_of(box, counted)
        (rows,) = box.connection.execute("SELECT count(*) FROM results").fetchone()
        assert head.rows == rows
    assert head == head_of(box)[0]
    assert 0 < head.rows < head.seq


def test_head_after_the_first_looks_at_what_is_new_only(box: Database) -> None:
    box.write(500)
    _, counted = head_of(box)
    box.write(1)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    box.connection.set_progress_handler(step, 10)
    head, _ = head_of(box, counted)
    box.connection.set_progress_handler(None, 0)
    assert head.rows == 501
    assert steps < 100, "500 rows take more than a thousand steps"


def test_an_empty_box_has_a_head(box: Database) -> None:
    head, _ = head_of(box)
    assert (head.seq, head.rows, head.commit_id, head.digest) == (0, 0, 0, "")
    assert not is_of_file(box.connection, head, box.boot)


def test_a_head_is_believed_of_its_own_file_alone(box: Database, tmp_path: Path) -> None:
    box.write(3)
    head, _ = head_of(box)
    box.write(3)
    assert is_of_file(box.connection, head, box.boot)
    restored: Boot = msgspec.structs.replace(box.boot, timeline="another")
    assert not is_of_file(box.connection, head, restored)
    for change in ({"device_id": "box-2"}, {"seq": 7}, {"commit_id": 9}, {"digest": "00" * 32}):
        assert not is_of_file(box.connection, msgspec.structs.replace(head, **change), box.boot)
    other = Database(tmp_path / "other.db", "box-1")
    other.write(3)
    assert not is_of_file(other.connection, head, box.boot)
    other.close()


@pytest.mark.parametrize("digest", ["0", "zz" * 32, "AB" * 32, "00" * 33, "\u001b[2J"])
async def test_an_object_whose_digest_is_none_is_no_head(
    box: Database, tmp_path: Path, digest: str
) -> None:
    box.write(1)
    heads = Heads(Objects(parse_location(f"file://{tmp_path}/replica"), None), box.device_id)
    head, _ = head_of(box)
    await heads.write(head)
    assert await heads.read() == head
    await heads.write(msgspec.structs.replace(head, digest=digest))
    assert await heads.read() is None
