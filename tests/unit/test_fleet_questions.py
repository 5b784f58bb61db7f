"""``fleet stats`` and ``search`` say what is true of the boxes, with a lake and without one."""

import math
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.lakes import exported
from support.replicating import Database

from edge_store.errors import InvalidRequest, NotFound, QueryRefused
from edge_store.fleet.centre import Centre, saved_query
from edge_store.fleet.lake.store import Lake
from edge_store.fleet.query import FleetAnswer
from edge_store.fleet.registry import Registry
from edge_store.fleet.search import Found, Wanted, search_fleet
from edge_store.fleet.stats import By, FleetStats, fleet_stats
from edge_store.result import Content, JsonState, Operation, Output, Status

DAY_MS = 86_400_000
BEGIN = 1_760_000_000_000  # 2025-10-09T08:53:20Z
STATES = (
    JsonState.TEXT, JsonState.VALID, JsonState.EXTRACTED, JsonState.REPAIRED, JsonState.INVALID
)  # fmt: skip
LAKES = ("none", "results", "requests")  # which tables of it there are


class Boxes:
    """Two boxes that do what is noted in ``told``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = str(folder / "lake")
        self.told: list[dict[str, Any]] = []
        self._random = random.Random(7)
        self._boxes = [Database(folder / f"{name}.db", name) for name in ("box-a", "box-b")]
        for n in range(30):
            self._write(n)
        exported(folder, Lake(self.lake), tables=("results", "outputs"))
        exported(folder, Lake(f"{self.lake}-requests"))
        for n in range(30, 40):
            self._write(n)
        self._boxes[0].write(1, operation=Operation.PREFIX_CACHE, outputs=())

    def _write(self, n: int) -> None:
        box = self._boxes[n % 3 == 0]
        fields: dict[str, Any] = {
            "created_at": BEGIN + n * DAY_MS // 9,
            "status": Status.FAILED if n % 5 == 0 else Status.COMPLETED,
            "response_model": f"m{n % 2}",
            "tenant": "key-1" if n % 4 else None,
            "latency_ms": round(self._random.expovariate(0.01), 3),
            "ttft_ms": round(self._random.random() * 50, 3) if n % 2 else None,
            "input_tokens": n,
            "output_tokens": 2 * n,
        }
        state = STATES[n % 5]
        output = Output(
            choice_index=0, output_text=f"Straße {n} Ventil-{n % 7}\0x", finish_reason="stop",
            json_state=state,
        )  # fmt: skip
        content = Content(
            input_text=f"{'ä' * 100} Frage {n}?", request_body=b"{}", response_body=b""
        )
        box.write(1, outputs=(output,), content=content, **fields)
        self.told.append({**fields, "device": box.device_id, "state": state, "n": n})

    def close(self) -> None:
        for box in self._boxes:
            box.close()

    def centre(self, lake: str) -> Centre:
        url = {"none": None, "results": self.lake, "requests": f"{self.lake}-requests"}[lake]
        return Centre(folder=self.folder, lake_url=url)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    with closing(Boxes(tmp_path_factory.mktemp("boxes"))) as boxes:
        yield boxes


def rank(values: list[float], percent: int) -> float | None:
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None


def expected(told: list[dict[str, Any]]) -> list[Any]:
    latency = [each["latency_ms"] for each in told]
    ttft = [each["ttft_ms"] for each in told if each["ttft_ms"] is not None]
    states = [each["state"] for each in told]
    return [
        len(told),
        sum(each["status"] is Status.COMPLETED for each in told),
        sum(each["input_tokens"] for each in told),
        sum(each["output_tokens"] for each in told),
        *(rank(latency, percent) for percent in (50, 95, 99)),
        *(rank(ttft, percent) for percent in (50, 95, 99)),
        len(states) - states.count("text"),
        states.count("valid"),
        states.count("extracted") + states.count("repaired"),
    ]


def day_of(each: dict[str, Any]) -> str:
    return f"2025-10-{9 + (each['created_at'] - BEGIN // DAY_MS * DAY_MS) // DAY_MS:02}"


@pytest.mark.parametrize("lake", ["none", "results"])
@pytest.mark.parametrize(
    ("by", "since"),
    [*((by, 0) for by in By), (By.TENANT, BEGIN + DAY_MS), (By.DAY, BEGIN + DAY_MS)],
)
def test_a_row_of_stats_is_what_its_results_sum_up_to(
    boxes: Boxes, lake: str, since: int, by: By
) -> None:
    keys = {
        By.DEVICE: lambda each: each["device"],
        By.MODEL: lambda each: each["response_model"],
        By.TENANT: lambda each: each["tenant"],
        By.DAY: day_of,
    }
    groups: dict[Any, list[dict[str, Any]]] = {}
    for each in boxes.told:
        if each["created_at"] >= since:
            groups.setdefault(keys[by](each), []).append(each)
    found = fleet_stats(boxes.centre(lake), by, since, timeout_s=60)
    assert found.unread == ()
    assert found.result.columns[0] == by
    told = {row[0]: list(row[1:14]) for row in found.result.rows if row[1]}
    assert told == {key: expected(group) for key, group in groups.items()}
    gaps = [row[-1] for row in found.result.rows]
    assert gaps == [100.0 if by in (By.DEVICE, By.DAY) else None] * len(gaps)


@pytest.mark.parametrize("lake", ["none", "results"])
def test_stats_of_the_fleet_are_one_row(boxes: Boxes, lake: str) -> None:
    (row,) = fleet_stats(boxes.centre(lake), None, 0, timeout_s=60).result.rows
    assert list(row) == [*expected(boxes.told), 41, 0, 100.0]


def test_stats_count_what_was_admitted_and_left_nothing(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "box-a.db", "box-a")) as box:
        box.write(3)
        box.connection.execute("DELETE FROM results WHERE seq = 2")
        box.connection.execute(
            "INSERT INTO losses (at, boot_id, boot_seq, id, code, message) "
            "SELECT 0, boot_id, 2, 'x', 'disk_full', '' FROM boots"
        )
        found = fleet_stats(Centre(folder=tmp_path), By.DEVICE, 0, timeout_s=60)
    assert found.result.rows[0][-3:] == (3, 1, 66.6666)


def search(boxes: Boxes, lake: str, text: str, **limits: Any) -> Found:
    return search_fleet(boxes.centre(lake), Wanted(text=text, **limits), timeout_s=60)


@pytest.mark.parametrize("lake", LAKES)
def test_search_finds_answers_and_prompts_newest_first(boxes: Boxes, lake: str) -> None:
    answers = search(boxes, lake, "VENTIL-3").result.rows
    wanted = [each for each in reversed(boxes.told) if each["n"] % 7 == 3]
    assert [row[1] for row in answers] == [each["device"] for each in wanted]
    assert {(row[5], "Ventil-3" in row[6]) for row in answers} == {("output", True)}
    ((*_, place, snippet),) = search(boxes, lake, "frage 33?").result.rows
    assert (place, snippet) == ("input", f"{'ä' * 39} Frage 33?")


@pytest.mark.parametrize("lake", LAKES)
def test_search_heeds_its_limits(boxes: Boxes, lake: str) -> None:
    since = BEGIN + 3 * DAY_MS
    rows = search(
        boxes, lake, "ventil", limit=4, since_ms=since, model="m1", device_id="box-a"
    ).result.rows
    wanted = [
        each["n"]
        for each in reversed(boxes.told)
        if each["created_at"] >= since
        and (each["response_model"], each["device"]) == ("m1", "box-a")
    ]
    assert [int(row[6].split()[1]) for row in rows] == wanted[:4]
    assert search(boxes, lake, "ventil", model="m2").result.rows == []
    assert search(boxes, lake, "%").result.rows == []


def test_search_for_nothing_is_refused(boxes: Boxes) -> None:
    with pytest.raises(InvalidRequest):
        search(boxes, "none", "")


def test_search_beyond_its_time_is_stopped(boxes: Boxes) -> None:
    with pytest.raises(QueryRefused, match="longer than"):
        search_fleet(boxes.centre("requests"), Wanted(text="x"), timeout_s=0.000_001)


@pytest.mark.parametrize("lake", LAKES)
def test_search_of_a_box_that_nobody_knows_names_those_that_are_known(
    boxes: Boxes, lake: str
) -> None:
    with pytest.raises(NotFound, match="no box nosuch") as caught:
        search_fleet(boxes.centre(lake), Wanted(text="x", device_id="nosuch"), timeout_s=60)
    assert caught.value.hint == "it has box-a, box-b"
    in_lake = Centre(folder=boxes.folder / "nothing", lake_url=boxes.lake)
    wanted = Wanted(text="nowhere", device_id="box-a")
    assert search_fleet(in_lake, wanted, timeout_s=60).result.rows == []


def test_lake_that_is_not_there_is_named(boxes: Boxes) -> None:
    absent = Centre(folder=boxes.folder, lake_url=f"{boxes.folder}/nolake")
    answers: list[FleetAnswer | FleetStats | Found] = [
        absent.ask("SELECT 1", rows_max=1, timeout_s=60),
        fleet_stats(absent, By.MODEL, 0, timeout_s=60),
        search_fleet(absent, Wanted(text="x"), timeout_s=60),
    ]
    assert [each.absent_lake for each in answers] == [absent.lake_url] * 3
    there = boxes.centre("results").ask("SELECT 1", rows_max=1, timeout_s=60)
    assert there.absent_lake is None


def test_saved_query_is_found_by_its_name() -> None:
    registry = Registry(queries={"slow": "SELECT 1"})
    assert saved_query(registry, "@slow") == "SELECT 1"
    assert saved_query(registry, "SELECT 2") == "SELECT 2"
    with pytest.raises(NotFound) as absent:
        saved_query(registry, "@fast")
    assert "@slow" in absent.value.hint


@pytest.mark.parametrize("lake", LAKES)
def test_snippets_go_on_behind_a_nul(tmp_path: Path, lake: str) -> None:
    with closing(Database(tmp_path / "box-a.db", "box-a")) as box:
        answer = "ä" * 700 + "\0 vor der NADEL\0 " + "ö" * 700
        box.write(1, outputs=(Output(choice_index=0, output_text=answer),))
        content = Content(input_text="eine\0Frage", request_body=b"{}", response_body=b"")
        box.write(1, content=content, outputs=())
    if lake != "none":
        tables = ("results", "outputs", "requests")[: 3 if lake == "requests" else 2]
        exported(tmp_path, Lake(str(tmp_path / "lake")), tables=tables)
    centre = Centre(folder=tmp_path, lake_url=None if lake == "none" else str(tmp_path / "lake"))
    ((*_, place, snippet),) = search_fleet(centre, Wanted(text="nadel"), timeout_s=60).result.rows
    assert (place, len(snippet)) == ("output", 160)
    assert snippet.startswith("ä" * 30 + "\0 vor der NADEL\0 ö")
    ((*_, place, snippet),) = search_fleet(centre, Wanted(text="frage"), timeout_s=60).result.rows
    assert (place, snippet) == ("input", "eine\0Frage")
