"""What is said of an SGLang, or a model, that will not do: by the daemon and by ``doctor``.

A stand-in lies where the package would: its version is read, and names are looked for in it. The
real ones are asked in tests/engine.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.daemon import DEADLINE_S, EDGE_STORE, Box


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("refused") / "box")


def with_sglang(made: Box, tmp_path: Path, version: str) -> Box:
    """The box where Python has that version, of which nothing can be imported, and a model."""
    packages, model = tmp_path / "packages", tmp_path / "model"
    about = packages / f"sglang-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    (packages / "sglang").mkdir()
    (packages / "sglang" / "__init__.py").touch()
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    box = Box(made.directory, ENGINE__KIND="sglang", ENGINE__SGLANG__MODEL_PATH=str(model))
    box.environ["PYTHONPATH"] = os.pathsep.join([str(packages), box.environ["PYTHONPATH"]])
    return box


def refusal(box: Box) -> str:
    """Start the daemon, without root's right to read everything: it must end by itself, for good.
    Returns what it says.
    """
    drop = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--inh-caps={drop}", f"--bounding-set={drop}"] if is_root() else []
    done = subprocess.run(
        [*command, *EDGE_STORE, "serve", "--config", str(box.directory), "--port", "0"],
        env=box.environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 78, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("edge-store: ")
    return done.stderr


def is_root() -> bool:
    return os.geteuid() == 0


def judged(box: Box) -> dict[str, str]:
    """What ``doctor`` says of SGLang."""
    done = box.run("doctor", "--config", str(box.directory), "--json", SERVER__PORT="1")
    found: dict[str, dict[str, str]] = {one["name"]: one for one in json.loads(done.stdout)}
    return found["sglang"]


def test_model_that_is_not_there_is_named_and_begins_no_boot(made: Box, tmp_path: Path) -> None:
    box = with_sglang(made, tmp_path, "0.5.23")
    before = box.scalar("SELECT count(*) FROM boots")
    nowhere = str(tmp_path / "nowhere")
    box.environ["EDGE_STORE_ENGINE__SGLANG__MODEL_PATH"] = nowhere
    assert f"engine.sglang.model_path = '{nowhere}'" in refusal(box)
    assert box.scalar("SELECT count(*) FROM boots") == before


def test_model_in_a_folder_of_others_is_named(made: Box, tmp_path: Path) -> None:
    box = with_sglang(made, tmp_path, "0.5.23")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (tmp_path / "model").rename(folder / "model")
    folder.chmod(0)
    box.environ["EDGE_STORE_ENGINE__SGLANG__MODEL_PATH"] = str(folder / "model")
    try:
        said = refusal(box)
    finally:
        folder.chmod(0o700)
    assert f"engine.sglang.model_path = '{folder / 'model'}'" in said
    assert "Permission denied" in said


def test_model_without_weights_is_named(made: Box, tmp_path: Path) -> None:
    box = with_sglang(made, tmp_path, "0.5.23")
    (tmp_path / "model" / "model.safetensors").unlink()
    said = refusal(box)
    assert f"engine.sglang.model_path = '{tmp_path / 'model'}': the folder has no weights" in said
    check = judged(box)
    assert (check["state"], "no weights" in check["found"]) == ("failed", True)


def test_version_that_is_too_old_is_sent_to_upstream(made: Box, tmp_path: Path) -> None:
    box = with_sglang(made, tmp_path, "0.5.6")
    said = refusal(box)
    assert "SGLang 0.5.6 cannot run inside the daemon" in said
    assert "0.5.17 or 0.5.23" in said
    assert 'engine.kind = "upstream"' in said
    check = judged(box)
    assert (check["state"], "0.5.6" in check["found"]) == ("failed", True)
    assert "upstream" in check["advice"]


def test_version_nobody_tried_is_a_warning_and_what_it_lacks_one_message(
    made: Box, tmp_path: Path
) -> None:
    box = with_sglang(made, tmp_path, "0.9.0")
    check = judged(box)
    assert (check["state"], "0.9.0" in check["found"]) == ("warning", True)
    assert "0.5.17 or 0.5.23" in check["advice"]
    said = refusal(box)
    assert "SGLang 0.9.0 cannot run inside the daemon: sglang.srt.entrypoints.engine.Engine" in said
    assert 'engine.kind = "upstream"' in said
