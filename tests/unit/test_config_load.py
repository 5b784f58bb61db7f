"""Wrong settings are refused with the key, the value and what to do; right ones arrive typed."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_store.config import Detector, EngineKind, load, render_toml, shown_settings
from edge_store.errors import ConfigError

HOOK = "[[sinks]]\nname = 'a'\nkind = 'webhook'"


def write(folder: Path, text: str) -> str:
    path = folder / "edge-store.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\ntls_key = 'k.pem'", ["server.tls_key needs server.tls_certificate"]),
        ("[server]\nprot = 1", ["server.prot", "did you mean server.port"]),
        ("[sever]\nport = 1", ["sever", "no such setting"]),
        ("[server]\nport = 70000", ["server.port", "70000", "65535"]),
        ("[server]\nport = '8642'", ["server.port", "'8642'", "int"]),
        ("[server]\nport = true", ["server.port", "True"]),
        ("server = 3", ["server", "3"]),
        ("[server.port]\nx = 1", ["server.port"]),
        ("[recorder]\nslots = 0", ["recorder.slots", "0"]),
        ("[log]\nlevel = 'loud'", ["log.level", "loud", "debug, info, warning, error"]),
        ("[store]\nallow_vulnerable_sqlite = true", ["replica.enabled = false"]),
        ("[recorder]\nbytes_max = 20000000", ["recorder.bytes_max", "server.body_bytes_max"]),
        ("[device]\nid = 'Ward 7'", ["device.id", "Ward 7"]),
        ("[engine]\nkind = 'upstream'", ["engine.upstream.base_url", "empty"]),
        ("[engine.upstream]\nbase_url = 'host:1'", ["engine.upstream.base_url", "host:1"]),
        ("[replica]\nurl = 'ftp://x'", ["replica.url", "ftp://x"]),
        ("[replica]\nmonitor_interval_s = 0.01", ["monitor_interval_s = 0.01", "at least 0.1"]),
        ("[retention]\nkeep_days = 1e300", ["keep_days = 1e+300", "<= 36500.0"]),
        ("[retention]\nkeep_days = nan", ["keep_days = nan"]),
        ("[retention]\ncontent_days = 1e9", ["content_days = 1000000000.0"]),
        ("[retention]\ninterval_s = 1e300", ["interval_s = 1e+300", "<= 604800.0"]),
        ("[retention]\nkeep_bytes = 1", ["keep_bytes = 1 is less", "1048576", "0 for no bound"]),
        ("[retention]\ndisk_floor_bytes = 1", ["disk_floor_bytes = 1 ", "at least 1048576"]),
        (
            "[retention]\ndisk_floor_bytes = 2000000",
            ["not above store.disk_reserve_bytes = 268435456", "as 2147483648"],
        ),
        ("[privacy]\ndetectors = ['mail']", ["privacy.detectors = ['mail']", "each is one of"]),
        ("[privacy.rules]\nid = '('", ["privacy.rules.id = '('", "no regular expression"]),
        ("[server]\nport = 1\n[server]\n", ["not TOML", "line 3"]),
        ("[[sinks]]\nname = 'a'", ["sinks[0]", "missing required field `kind`"]),
        ("[[sinks]]\nname = 'A'\nkind = 'mqtt'", ["sinks[0].name = 'A'"]),
        ("[[sinks]]\nname = 'a'\nkind = 'kafka'", ["sinks[0].kind = 'kafka'"]),
        (f"{HOOK}\nurl = 'ftp://h'", ["url of 'a' is no address for webhook", "https://"]),
        (f"{HOOK}\ntopic = '{{x}}'", ["the topic of 'a' has {x}"]),
        (f"{HOOK}\ntopic = 'a/{{model'", ["the topic of 'a' has a brace"]),
        (f"{HOOK}\n{HOOK}", ["two are named 'a'"]),
        ("port =", ["not TOML", "edge-store.toml"]),
    ],
)
def test_wrong_file_is_refused_with_key_and_value(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), environ={})
    for part in named:
        assert part in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("EDGE_STORE_SERVER__PROT", "1", ["EDGE_STORE_SERVER__PROT", "did you mean server.port"]),
        ("EDGE_STORE_SERVER__PORT", "many", ["EDGE_STORE_SERVER__PORT", "many"]),
        ("EDGE_STORE_SERVER__PORT", "", ["EDGE_STORE_SERVER__PORT", "''"]),
        ("EDGE_STORE_SERVER__PORT__X", "1", ["EDGE_STORE_SERVER__PORT__X"]),
        ("EDGE_STORE_SERVER_PORT", "1", ["did you mean EDGE_STORE_SERVER__PORT?"]),
        ("EDGE_STORE_CONFG", "x", ["EDGE_STORE_CONFG", "did you mean EDGE_STORE_CONFIG?"]),
        ("EDGE_STORE_FOO", "x", ["EDGE_STORE_FOO", "no such variable"]),
        ("EDGE_STORE_ENGINE__KIND", "vllm", ["'vllm'", "demo, upstream, sglang"]),
        ("EDGE_STORE_REPLICA__ENABLED", "perhaps", ["EDGE_STORE_REPLICA__ENABLED", "perhaps"]),
        ("EDGE_STORE_ENGINE__UPSTREAM", "x", ["EDGE_STORE_ENGINE__UPSTREAM"]),
        ("EDGE_STORE_RECORDER__BEAT_S", "nan", ["EDGE_STORE_RECORDER__BEAT_S", "nan"]),
        ("EDGE_STORE_RECORDER__BEAT_S", "61", ["EDGE_STORE_RECORDER__BEAT_S", "61"]),
        ("EDGE_STORE_PRIVACY__DETECTORS", "email", ["EDGE_STORE_PRIVACY__DETECTORS", "'email'"]),
        ("EDGE_STORE_PRIVACY__DETECTORS", '["mail"]', ["'mail'", "each is one of email,"]),
    ],
)
def test_wrong_variable_is_refused_with_name_and_value(
    tmp_path: Path, name: str, value: str, named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, ""), environ={name: value})
    for part in named:
        assert part in str(caught.value)
    assert caught.value.hint


def test_lists_and_tables_are_json_in_a_variable(tmp_path: Path) -> None:
    environ = {
        "EDGE_STORE_PRIVACY__DETECTORS": '["email", "phone"]',
        "EDGE_STORE_PRIVACY__RULES": '{"ticket": "T-[0-9]+"}',
    }
    privacy = load(write(tmp_path, ""), environ=environ).config.privacy
    assert privacy.detectors == (Detector.EMAIL, Detector.PHONE)
    assert privacy.rules == {"ticket": "T-[0-9]+"}
    for name, shape in (("DETECTORS", '["email", "phone"]'), ("RULES", '{"name": "value"}')):
        with pytest.raises(ConfigError) as caught:
            load(write(tmp_path, ""), environ={f"EDGE_STORE_PRIVACY__{name}": "email,phone"})
        assert shape in caught.value.hint


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_no_bound_can_be_switched_off_by_a_number_that_is_none(tmp_path: Path, text: str) -> None:
    for key in ("engine.timeout_s", "recorder.commit_timeout_s", "replica.stop_timeout_s"):
        with pytest.raises(ConfigError, match=key):
            load(write(tmp_path, f"{key} = {text}"), environ={})


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("webhook", "https://ada:geheim@host/x"),
        ("webhook", "https://geheim@host/x"),
        ("webhook", "https://host/x?api_key=geheim"),
        ("postgres", "postgresql://ada:geheim@host/db"),
        ("mqtt", "mqtt://ada:geheim@host"),
        ("mqtt", "geheim://host"),
    ],
)
def test_secret_in_the_address_of_a_sink_is_refused_and_not_repeated(
    tmp_path: Path, kind: str, url: str
) -> None:
    text = f"[[sinks]]\nname = 'to-a'\nkind = '{kind}'\nurl = '{url}'\nbatch_rows = 5"
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), environ={})
    assert "geheim" not in str(caught.value) + caught.value.hint
    environ = {"EDGE_STORE_SINK_TO_A": "geheim"}  # is no setting
    shown = load(write(tmp_path, text.replace(f"url = '{url}'", "")), environ=environ)
    assert "geheim" not in repr(shown_settings(shown))


def test_upstream_address_from_the_environment_is_used(tmp_path: Path) -> None:
    environ = {
        "EDGE_STORE_ENGINE__KIND": "upstream",
        "EDGE_STORE_ENGINE__UPSTREAM__BASE_URL": "http://127.0.0.1:30000",
    }
    config = load(write(tmp_path, ""), environ=environ).config
    assert config.engine.kind is EngineKind.UPSTREAM
    assert config.engine.upstream.base_url == "http://127.0.0.1:30000"


def test_sglang_arguments_pass_as_they_are(tmp_path: Path) -> None:
    text = '[engine.sglang]\nmodel_path = "/m"\ntp_size = 2\nlora_paths = ["a", "b"]\n'
    loaded = load(
        write(tmp_path, text), environ={"EDGE_STORE_ENGINE__SGLANG__MEM_FRACTION_STATIC": "0.8"}
    )
    arguments = loaded.config.engine.sglang
    assert arguments["model_path"] == "/m"
    assert arguments["tp_size"] == 2
    assert arguments["lora_paths"] == ["a", "b"]
    assert arguments["mem_fraction_static"] == 0.8


def test_the_key_of_the_commands_is_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge-store.toml").write_text("", encoding="utf-8")
    monkeypatch.setenv("EDGE_STORE_API_KEY", "es-secret")
    assert load(str(tmp_path)).config == load(str(tmp_path)).config


def test_file_is_found_by_variable_then_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, here = tmp_path / "named", tmp_path / "here"
    for folder in (named, here):
        folder.mkdir()
        write(folder, "")
    monkeypatch.chdir(here)
    assert load(environ={}).path == here / "edge-store.toml"
    assert load(environ={"EDGE_STORE_CONFIG": str(named)}).path == named / "edge-store.toml"
    assert load(str(here), environ={"EDGE_STORE_CONFIG": str(named)}).path == (
        here / "edge-store.toml"
    )


def test_a_certificate_lies_where_the_file_says(tmp_path: Path) -> None:
    text = "[server]\ntls_certificate = 'tls/cert.pem'\ntls_key = '/elsewhere/key.pem'"
    found = load(write(tmp_path, text), environ={}).config.server
    assert found.tls_certificate == str(tmp_path / "tls/cert.pem")
    assert found.tls_key == "/elsewhere/key.pem"
    assert load(write(tmp_path, ""), environ={}).config.server.tls_certificate == ""


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, "store.path = 'data/r.db'"), environ={}).config
    assert config.store.path == str(tmp_path / "data/r.db")
    assert config.replica.url == f"file://{tmp_path / 'data/replica'}"


def test_rendered_values_are_read_back(tmp_path: Path) -> None:
    values = {
        "server.host": 'a "quoted" \\ host\x7f',
        "server.port": 1,
        "replica.enabled": False,
        "engine.sglang": {"model_path": "/models/ü", "tp_size": 2},
    }
    config = load(write(tmp_path, render_toml(values)), environ={}).config
    assert config.server.host == values["server.host"]
    assert config.server.port == 1
    assert config.replica.enabled is False
    assert config.engine.sglang == values["engine.sglang"]


def test_what_the_profile_decides_is_shown_with_its_value_and_why(tmp_path: Path) -> None:
    text = "[replica]\nprofile = 'fast'\nsnapshot_interval_s = 7200.0\n"
    path = write(tmp_path, text)
    shown = {each.key: each for each in shown_settings(load(path, environ={}))}
    monitor = shown["replica.monitor_interval_s"]
    assert (monitor.value, monitor.origin) == (1.0, "replica.profile = fast")
    snapshot = shown["replica.snapshot_interval_s"]
    assert (snapshot.value, snapshot.origin) == (7200.0, str(tmp_path / "edge-store.toml"))


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    text = """
    engine.upstream.base_url = "https://user:geheim@host"
    replica.url = "s3://id:geheim@bucket/p?endpoint=https://h&secret=geheim"
    [engine.sglang]
    model_path = "/m"
    api_key = "geheim"
    hf_token = "geheim"
    ssl_keyfile_password = "geheim"
    nested = { admin_api_key = "geheim" }
    max_total_tokens = 7
    """
    settings = shown_settings(load(write(tmp_path, text), environ={}))
    shown = {setting.key: setting.value for setting in settings}
    assert "geheim" not in repr(settings)
    assert shown["engine.sglang"]["max_total_tokens"] == 7
    assert shown["engine.sglang"]["model_path"] == "/m"
    assert "endpoint=https://h" in shown["replica.url"]


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (["serve", "--config", "absent.toml"], {}, ["--config", "absent.toml", "edge-store init"]),
        (["serve"], {"EDGE_STORE_CONFIG": "absent"}, ["EDGE_STORE_CONFIG", "absent"]),
        (["query", "select 1"], {}, ["no configuration", "--config DIR", "edge-store init"]),
        (
            ["config", "show"],
            {"EDGE_STORE_SERVER__PORT": "x"},
            ["EDGE_STORE_SERVER__PORT", "'x'", "set another value"],
        ),
    ],
)
def test_commands_end_with_78_and_say_what_to_do(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], named: list[str]
) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "edge_store", *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    for part in named:
        assert part in done.stderr


def test_number_out_of_bounds_is_told_with_the_bound(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "[retention]\nkeep_days = 1e300"), environ={})
    assert caught.value.hint == "write at most 36500.0"
