"""A slice of `scripts/fuzz-http`: the same malformed requests each time, to a live daemon."""

from pathlib import Path

from support.http_fuzz import PARTS, fuzz

NUMBER = 1200
GROWTH_BYTES_MAX = 24 << 20  # so few requests tell no leak from a warm cache: the long run does


def test_malformed_requests_break_nothing_and_tell_nothing(tmp_path: Path) -> None:
    report = fuzz(tmp_path, NUMBER, seed=5)
    assert report.found == []
    assert sum(report.statuses.values()) == NUMBER
    seen = {name.rsplit(" ", 1)[1] for name in report.statuses}
    assert {"200", "400", "401", "403", "404", "405"} <= seen
    assert report.rss[-1] - report.rss[PARTS // 4 - 1] < GROWTH_BYTES_MAX
