"""One daemon for each engine, for all tests of this folder."""

from collections.abc import Iterator

import pytest
from support.engines import Appliance, appliance


@pytest.fixture(
    scope="session",
    name="appliance",
    params=[
        "demo",
        pytest.param("upstream", marks=pytest.mark.sglang),
        pytest.param("sglang", marks=pytest.mark.sglang),
    ],
)
def _appliance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Appliance]:
    with appliance(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running
