"""What `edge-store stats` counts: as a naive count does, and as the fleet's does; the forecast."""

import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.records import make_result, new_database
from support.terminal import on_terminal

from edge_store.cli.target import last_boot, still_open
from edge_store.clock import utc_text
from edge_store.errors import QueryRefused
from edge_store.fleet.centre import Centre
from edge_store.fleet.stats import By as FleetBy
from edge_store.fleet.stats import fleet_stats
from edge_store.growth import Disk, disk_by_day, forecast
from edge_store.lock import DatabaseLock, LastBoot
from edge_store.query import QueryResult
from edge_store.recorder.batch import read_head, write_batch
from edge_store.recorder.deletions import Reason, delete_results
from edge_store.result import Boot, JsonState, Output, Result, Status
from edge_store.selection import Selection
from edge_store.sqlite import Connection
from edge_store.stats import By, counts_by, stats

DAY_MS = 86_400_000
NOW = 1_760_000_000_000
PATIENCE_S = 30.0
STATES = (JsonState.TEXT, JsonState.VALID, JsonState.REPAIRED, JsonState.EXTRACTED)


def history(boot: Boot, number: int) -> list[Result]:
    rng = random.Random(7)
    return [
        make_result(
            n,
            boot.boot_id,
            created_at=NOW - rng.randrange(5 * DAY_MS),
            request_model=rng.choice(("a", "b", None)),
            response_model=None,
            status=rng.choice((Status.COMPLETED, Status.FAILED)),
            tenant=rng.choice(("key-1", None)),
            input_tokens=rng.choice((None, rng.randrange(100))),
            output_tokens=rng.randrange(50),
            cached_tokens=rng.choice((None, 3)),
            latency_ms=rng.random() * 1000,
            ttft_ms=rng.choice((None, rng.random() * 10)),
            queue_ms=rng.random(),
            outputs=(Output(choice_index=0, output_text="x", json_state=rng.choice(STATES)),),
        )
        for n in range(1, number + 1)
    ]


@pytest.fixture
def results(tmp_path: Path) -> Iterator[tuple[Connection, list[Result]]]:
    connection, boot = new_database(tmp_path / "box-test.db")
    made = history(boot, 200)
    write_batch(connection, boot, read_head(connection), 203, made)
    yield connection, made
    connection.close()


KEYS: dict[By, Callable[[Result], str | None]] = {
    By.MODEL: lambda result: result.request_model,
    By.HOUR: lambda result: utc_text(result.created_at, "%Y-%m-%dT%H:00:00Z"),
    By.DAY: lambda result: utc_text(result.created_at, "%Y-%m-%d"),
    By.TENANT: lambda result: result.tenant,
    By.STATUS: lambda result: str(result.status),
}


def ranked(values: list[float], share: int) -> float | None:
    """By nearest rank."""
    return sorted(values)[math.ceil(share * len(values) / 100) - 1] if values else None


def counted(results: list[Result]) -> dict[str, Any]:
    """What stats says of them, but for what is missing."""

    def added(name: str) -> int | None:
        values = [getattr(each, name) for each in results if getattr(each, name) is not None]
        return sum(values) if values else None

    states = [output.json_state for each in results for output in each.outputs]
    found: dict[str, Any] = {
        "requests": len(results),
        "completed": sum(each.status is Status.COMPLETED for each in results),
        **{name: added(name) for name in ("input_tokens", "output_tokens", "cached_tokens")},
        "json_asked": sum(state is not JsonState.TEXT for state in states),
        "json_valid": states.count(JsonState.VALID),
        "json_repaired": states.count(JsonState.REPAIRED) + states.count(JsonState.EXTRACTED),
    }
    for name in ("latency_ms", "ttft_ms", "queue_ms"):
        values = [getattr(each, name) for each in results if getattr(each, name) is not None]
        found |= {f"{name}_p{share}": ranked(values, share) for share in (50, 95, 99)}
    return found


def told(found: QueryResult, but: tuple[str, ...] = ()) -> dict[Any, dict[str, Any]]:
    """By the first column."""
    return {
        row[0]: {
            name: value
            for name, value in zip(found.columns[1:], row[1:], strict=True)
            if name not in but
        }
        for row in found.rows
        if row[found.columns.index("requests")]  # else what was admitted that day has no row
    }


GAPS = ("admitted", "missing", "complete_percent")


@pytest.mark.parametrize("by", By)
@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(since=NOW - 2 * DAY_MS, until=NOW - DAY_MS),
        Selection(status=Status.FAILED, tenant="key-1"),
        Selection(model="a"),
    ],
    ids=repr,
)
def test_each_row_is_what_its_results_are(
    results: tuple[Connection, list[Result]], by: By, selection: Selection
) -> None:
    connection, made = results
    statement = f"SELECT r.id FROM results AS r WHERE {selection.condition}"
    chosen = {name for (name,) in connection.execute(statement, selection.values)}
    groups: dict[str | None, list[Result]] = {}
    for each in made:
        if each.id in chosen:
            groups.setdefault(KEYS[by](each), []).append(each)
    found = told(stats(connection, selection, by, timeout_s=PATIENCE_S), GAPS)
    assert found == {key: counted(group) for key, group in groups.items()}
    counts = dict(counts_by(connection, selection, by, timeout_s=PATIENCE_S))
    assert counts == {key: len(group) for key, group in groups.items()}


def test_all_together_are_one_row_with_what_is_missing(
    results: tuple[Connection, list[Result]],
) -> None:
    connection, made = results
    found = stats(connection, Selection(), None, timeout_s=PATIENCE_S)
    (row,) = [dict(zip(found.columns, each, strict=True)) for each in found.rows]
    gaps = {name: row.pop(name) for name in GAPS}
    assert row == counted(made)
    assert gaps == {"admitted": 203, "missing": 0, "complete_percent": 100.0}  # 3 are in flight
    cut, copied = (
        stats(connection, Selection(), None, timeout_s=PATIENCE_S, last_boot=last)
        for last in (lambda: LastBoot.CUT, lambda: LastBoot.COPIED)
    )
    assert cut.rows[0][-len(GAPS) :] == (203, 3, 98.5221)
    assert copied.rows[0][-len(GAPS) :] == (203, 0, None)
    narrowed = stats(connection, Selection(model="a"), None, timeout_s=PATIENCE_S)
    assert narrowed.rows[0][-3:] == (None, None, None)


def test_a_daemon_that_starts_while_the_rows_are_asked_for_has_cut_nothing(
    results: tuple[Connection, list[Result]], tmp_path: Path
) -> None:
    connection, _ = results
    look = partial(last_boot, tmp_path / "box-test.db", answers=False, is_copy=False)
    before = look()
    assert before is LastBoot.CUT

    def newest() -> LastBoot:
        assert connection.in_transaction
        return still_open(connection, before, look)[1]

    cut = stats(connection, Selection(), None, timeout_s=PATIENCE_S, last_boot=newest)
    with DatabaseLock(tmp_path / "box-test.db"):  # as a daemon that starts takes it first
        open_ = stats(connection, Selection(), None, timeout_s=PATIENCE_S, last_boot=newest)
    assert cut.rows[0][-len(GAPS) :] == (203, 3, 98.5221)
    assert open_.rows[0][-len(GAPS) :] == (203, 0, 100.0)


@pytest.mark.parametrize("by", ["model", "day", "tenant"])
def test_a_fleet_of_this_box_is_told_the_same(
    results: tuple[Connection, list[Result]], tmp_path: Path, by: str
) -> None:
    connection, _ = results
    ours = stats(connection, Selection(), By(by), timeout_s=PATIENCE_S)
    theirs = fleet_stats(Centre(folder=tmp_path), FleetBy(by), 0, timeout_s=PATIENCE_S).result
    shared = [name for name in theirs.columns[1:] if by == "day" or name not in GAPS]
    assert set(shared) <= set(ours.columns)
    mine, its = told(ours), told(theirs)
    assert {key: {name: row[name] for name in shared} for key, row in mine.items()} == {
        key: {name: row[name] for name in shared} for key, row in its.items()
    }


def test_json_counts_as_its_newest_repair_has_it(
    results: tuple[Connection, list[Result]],
) -> None:
    connection, made = results
    valid = next(each for each in made if each.outputs[0].json_state is JsonState.VALID)
    for state in ("repaired", "invalid"):
        connection.execute(
            "INSERT INTO repairs (at, id, choice_index, json_state, repairer) "
            "VALUES (1, ?, 0, ?, 'r')",
            (valid.id, state),
        )
    outputs = (msgspec.structs.replace(valid.outputs[0], json_state=JsonState.INVALID),)
    made[made.index(valid)] = msgspec.structs.replace(valid, outputs=outputs)
    found = stats(connection, Selection(tenant=None), None, timeout_s=PATIENCE_S)
    row = dict(zip(found.columns, found.rows[0], strict=True))
    assert {name: row[name] for name in row if name.startswith("json")} == {
        name: value for name, value in counted(made).items() if name.startswith("json")
    }


def test_of_an_empty_box_all_is_nothing(tmp_path: Path) -> None:
    connection, _ = new_database(tmp_path / "results.db")
    found = stats(connection, Selection(), None, timeout_s=PATIENCE_S)
    assert len(found.rows) == 1
    assert found.rows[0][:2] == (0, 0)
    assert len(found.rows[0]) == len(found.columns)
    assert stats(connection, Selection(), By.DAY, timeout_s=PATIENCE_S).rows == []
    connection.close()


def test_what_takes_too_long_is_refused(results: tuple[Connection, list[Result]]) -> None:
    connection, _ = results
    with pytest.raises(QueryRefused, match="longer than"):
        stats(connection, Selection(), By.HOUR, timeout_s=1e-9)
    assert stats(connection, Selection(), By.HOUR, timeout_s=PATIENCE_S).rows  # it goes on


def test_days_take_what_the_file_has(results: tuple[Connection, list[Result]]) -> None:
    connection, made = results
    found = disk_by_day(connection, NOW, timeout_s=PATIENCE_S)
    used = found.file_bytes - found.free_bytes
    assert sum(row[2] for row in found.result.rows) == pytest.approx(used, abs=10)
    assert sum(row[1] for row in found.result.rows) == len(made)
    assert found.recent_bytes == pytest.approx(used)
    assert found.first_at == min(each.created_at for each in made)
    assert not found.has_retention


def test_what_retention_deletes_is_noticed(results: tuple[Connection, list[Result]]) -> None:
    connection, _ = results
    delete_results(connection, [1], Reason.RETENTION)
    assert disk_by_day(connection, NOW, timeout_s=PATIENCE_S).has_retention


def filled(**changes: Any) -> Disk:
    fields: dict[str, Any] = {
        "result": QueryResult(columns=(), rows=[], is_cut=False),
        "file_bytes": 10**9,
        "free_bytes": 10**8,
        "recent_bytes": 7e8,
        "recent_at": NOW - 7 * DAY_MS,
        "first_at": NOW - 30 * DAY_MS,
        "has_retention": False,
    }
    return Disk(**{**fields, **changes})


def test_the_newest_week_says_when_the_disk_is_full() -> None:
    found = forecast(filled(), NOW, 4 * 10**9)
    assert found.bytes_per_day == 1e8
    assert found.full_in_days == 41.0  # what is free within the file is used first
    assert found.message == "full in 41 days"
    young = forecast(filled(first_at=NOW - 2 * DAY_MS), NOW, 4 * 10**9)
    assert young.bytes_per_day == 3.5e8
    assert forecast(filled(free_bytes=0), NOW, -1).message == "full in 0 hours"


@pytest.mark.parametrize(
    ("changes", "room", "why"),
    [
        ({}, None, "is a copy"),
        ({"first_at": None}, 1, "no results yet"),
        ({"first_at": NOW - 1000}, 1, "less than a day"),
        ({"has_retention": True}, 1, "retention deletes"),
        ({"recent_bytes": 0.0}, 1, "nothing came"),
    ],
)
def test_what_cannot_be_known_is_not_forecast(
    changes: dict[str, Any], room: int | None, why: str
) -> None:
    found = forecast(filled(**changes), NOW, room)
    assert found.full_in_days is None
    assert why in found.message


def test_bars_are_drawn_on_a_terminal_alone(
    results: tuple[Connection, list[Result]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "edge_store", "stats", "--db", str(tmp_path / "box-test.db")]
    code, shown = on_terminal(
        ["sh", "-c", '"$@" --by model && "$@" --by model --table | cat', "sh", *command],
        dict(os.environ),
        columns=140,
    )
    assert code == 0, shown
    drawn, plain = shown.split("model", 2)[1:]
    assert "█" in drawn
    assert "█" not in plain
    assert "chart" not in plain
