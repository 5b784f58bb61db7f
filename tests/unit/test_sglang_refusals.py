"""What is said of an SGLang that is not there, too old or not known, before anything is loaded."""

from pathlib import Path
from types import ModuleType

import pytest

from edge_store.engine import sglang_private as private
from edge_store.engine.sglang import find_sglang
from edge_store.errors import ConfigError


def has_version(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(private, "version", lambda _name: found)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    return str(tmp_path)


@pytest.mark.parametrize("found", ["0.5.6", "0.4.10.post2", "0.5.16"])
def test_version_that_is_too_old_is_sent_to_upstream(
    monkeypatch: pytest.MonkeyPatch, model: str, found: str
) -> None:
    has_version(monkeypatch, found)
    with pytest.raises(ConfigError, match=found) as caught:
        find_sglang({"model_path": model})
    assert "upstream" in caught.value.hint
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("found", "is_tested"), [("0.5.17", True), ("0.5.23", True), ("0.6", False)]
)
def test_newer_version_is_taken_and_called_untested(
    monkeypatch: pytest.MonkeyPatch, model: str, found: str, *, is_tested: bool
) -> None:
    has_version(monkeypatch, found)
    assert find_sglang({"model_path": model}) == (found, is_tested)


def test_model_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has_version(monkeypatch, "0.5.23")
    with pytest.raises(ConfigError, match="nowhere"):
        find_sglang({"model_path": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"config\.json"):
        find_sglang({"model_path": str(tmp_path)})


def test_file_of_a_model_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    has_version(monkeypatch, "0.5.23")
    Path(model, "model-2.safetensors").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"model-2\.safetensors cannot be read: No such file"):
        find_sglang({"model_path": model})


def test_path_that_cannot_be_looked_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    has_version(monkeypatch, "0.5.23")
    with pytest.raises(ConfigError, match=r"model_path = .*: File name too long"):
        find_sglang({"model_path": "/" + "m" * 300})


def test_folder_without_weights_is_named(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    has_version(monkeypatch, "0.5.23")
    Path(model, "model.safetensors").rename(Path(model, "tokenizer.json"))
    for arguments in ({}, {"load_format": "auto"}, {"load_format": "safetensors"}):
        with pytest.raises(
            ConfigError, match=r"the folder has no weights: .*\.safetensors"
        ) as told:
            find_sglang({"model_path": model, **arguments})
        assert repr(model) in str(told.value)
        assert told.value.exit_code == 78


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.gguf", "model.safetensors"])
def test_weights_in_another_form_are_weights(
    monkeypatch: pytest.MonkeyPatch, model: str, name: str
) -> None:
    has_version(monkeypatch, "0.5.23")
    Path(model, "model.safetensors").rename(Path(model, name))
    assert find_sglang({"model_path": model})[1]


@pytest.mark.parametrize("load_format", ["dummy", "sharded_state", "remote_instance"])
def test_weights_that_do_not_come_from_the_folder_are_left_to_sglang(
    monkeypatch: pytest.MonkeyPatch, model: str, load_format: str
) -> None:
    has_version(monkeypatch, "0.5.23")
    Path(model, "model.safetensors").unlink()
    assert find_sglang({"model_path": model, "load_format": load_format})[1]


def test_file_that_is_cloned_without_its_content_is_named(
    monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    has_version(monkeypatch, "0.5.23")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16060522240\n"
    Path(model, "model.safetensors").write_text(pointer)
    with pytest.raises(ConfigError, match=r"model\.safetensors is a pointer of Git LFS") as told:
        find_sglang({"model_path": model})
    assert "lfs pull" in told.value.hint


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "s3://bucket/models/qwen", "Qwen/Q-GGUF:Q4_K_M"])
def test_name_of_a_model_is_left_to_sglang(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    has_version(monkeypatch, "0.5.23")
    assert find_sglang({"model_path": name})[1]


def test_file_of_a_model_is_taken_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has_version(monkeypatch, "0.5.23")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    assert find_sglang({"model_path": str(model)})[1]


@pytest.mark.parametrize("name", ["host", "port", "api_key", "admin_api_key"])
def test_argument_of_sglangs_own_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    has_version(monkeypatch, "0.5.23")
    with pytest.raises(ConfigError, match=name):
        find_sglang({"model_path": "m", name: "x"})


def test_version_that_lacks_a_name_is_refused_with_that_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_version(monkeypatch, "0.9.0")
    modules = {module: ModuleType(module) for module, _name in private.NAMES}
    monkeypatch.setattr(private, "import_module", modules.__getitem__)
    with pytest.raises(ConfigError, match=r"0\.9\.0 .*entrypoints\.engine\.Engine"):
        private.launch({"model_path": "m"})
