"""SGLang with a model that makes embeddings, inside the daemon."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.daemon import DaemonProcess
from support.engines import Appliance, new_box, user
from support.sglang import MODEL, START_S, environ

pytestmark = pytest.mark.sglang


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    box = new_box("sglang", tmp_path / "box")
    settings = {"EDGE_STORE_ENGINE__SGLANG__IS_EMBEDDING": "true"}
    daemon = DaemonProcess(box, {**box.environ, **environ(), **settings}, start_deadline_s=START_S)
    with daemon:
        daemon.wait_ready(START_S)
        yield Appliance("sglang", MODEL, daemon)


def test_embeddings_are_rows_and_what_generates_is_refused(appliance: Appliance) -> None:
    answer = appliance.ask("/v1/embeddings", input=["hello", "world"])
    assert len(answer.json()["data"]) == 2
    row = appliance.row(answer)
    assert (row["operation"], row["status"]) == ("embeddings", "completed")
    assert row["input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    refused: httpx.Response = appliance.chat("hello", max_tokens=2)
    assert refused.status_code == 400
    assert appliance.row(refused)["status"] == "failed"
    generated = appliance.ask("/v1/messages", messages=user("hello"), max_tokens=2)
    assert generated.status_code == 400
    assert appliance.ask("/v1/embeddings", input="still there?").status_code == 200
