"""SGLang with far too small a cache for keys and values: what does not fit ends, on record."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.daemon import Box, DaemonProcess
from support.engines import Appliance, user
from support.sglang import MODEL, START_S, box_settings, environ

pytestmark = pytest.mark.sglang

CACHE_TOKENS = 256  # of all requests together
FULL = {"ignore_eos": True}


@pytest.fixture(scope="module", name="tight")
def _tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    settings = {**box_settings(), "ENGINE__SGLANG__MAX_TOTAL_TOKENS": str(CACHE_TOKENS)}
    box = Box.init(tmp_path_factory.mktemp("tight") / "box", **settings)
    with DaemonProcess(box, {**box.environ, **environ()}, start_deadline_s=START_S) as daemon:
        yield Appliance("sglang", MODEL, daemon)
        assert daemon.stop() == 0, daemon.output()
    box.proven()


@pytest.mark.parametrize("stream", [False, True])
def test_answer_that_outgrows_the_cache_ends_there(tight: Appliance, *, stream: bool) -> None:
    body = {"messages": user("long"), "max_tokens": 1500, **FULL}
    path = "/v1/chat/completions"
    answer = tight.stream(path, **body) if stream else tight.ask(path, **body)
    row = tight.row(answer)
    assert (row["status"], row["finish_reason"], row["error_type"]) == ("completed", "length", None)
    # its last tokens are what SGLang keeps in reserve
    assert CACHE_TOKENS * 0.9 < row["input_tokens"] + row["output_tokens"] <= CACHE_TOKENS
    assert row["outputs"][0]["output_text"]


def test_prompt_that_outgrows_the_cache_is_refused_with_the_engines_message(
    tight: Appliance,
) -> None:
    answer = tight.chat("x " * CACHE_TOKENS, max_tokens=4)
    assert answer.status_code == 400
    assert "maximum allowed length" in answer.text
    row = tight.row(answer)
    assert (row["status"], row["http_status"]) == ("failed", 400)
    assert row["error_type"] == "engine_refused"
    assert row["error_message"] == answer.text


def test_requests_that_together_outgrow_the_cache_are_all_answered_and_recorded(
    tight: Appliance,
) -> None:
    """SGLang takes the cache away from some of them, and begins those again."""
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda n: tight.chat(f"question {n}", max_tokens=120, **FULL), range(6))
        )
    assert [answer.status_code for answer in answers] == [200] * 6
    for answer in answers:
        row = tight.row(answer)
        assert (row["status"], row["output_tokens"]) == ("completed", 120)
        said = answer.json()["choices"][0]["message"]["content"]
        assert row["outputs"][0]["output_text"] == said
