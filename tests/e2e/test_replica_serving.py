"""What replication takes from callers is measured on daemons of which one replicates."""

import asyncio
import re
from pathlib import Path

import pytest
from support.replica_serving import Plan, measure

from edge_store.config import ReplicaProfile

AT_A_SLOW_START = {"replica_unclaimed", "replica_claimed"}  # it goes on without for a while
PLAN = Plan(
    profile=ReplicaProfile.FAST,
    pairs=1,
    callers=8,
    rate=50.0,
    full_s=4.0,  # in which each has some answers also on a busy machine
    steady_s=4.0,
    lag_s=4.0,
    parts=frozenset({"full", "steady", "lag"}),
    is_folder=False,
)


@pytest.mark.slow
def test_each_part_tells_of_both_and_the_replica_has_what_was_committed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")  # the server's come into the environment
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    asyncio.run(measure(tmp_path, PLAN))
    told = capsys.readouterr()
    full, steady, lag = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in told.out.splitlines()
    )
    assert full[:1] == steady[:1] == lag[:1] == ["`fast`"]
    litestream_us, _store_us, _client, slow, _load, caught_up = full[8:]
    assert float(litestream_us) > 0, told
    one, none = (int(of.split()[-1]) for of in slow.split(";"))
    assert one > 0 < none, "both have committed"
    assert re.fullmatch(r"\d+\.\d s", caught_up), "it has, within the time for that"
    assert 0 < float(lag[2].removesuffix(" s")) <= float(lag[4].removesuffix(" s"))
    (results,) = re.findall(r"(\d+) results, ", told.err)
    stored = [*(tmp_path / "s3").rglob("*.ltx")]
    assert int(results) > 0
    assert stored, "the replica is on the server"
    troubles = set(re.findall(r"replica_\w+", told.err)) - AT_A_SLOW_START
    assert troubles == set(), "a stop of a few seconds is no trouble of the replica"
