"""A support bundle of a box whose settings cannot be read tells nothing that they hold."""

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.daemon import Box

from edge_store.config import load
from edge_store.errors import ConfigError
from edge_store.support import broken, parts, write_bundle
from edge_store.support.parts import Subject
from edge_store.support.settings import form_of

MARK = "mArKeR"  # as text, as name, as a part of either


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    return Box.init(tmp_path_factory.mktemp("broken") / "box", "--engine", "demo")


def bundle_of(settings_file: Path, *, redact: bool) -> dict[str, str]:
    subject = Subject.found(str(settings_file), "edge-store", redact=redact)
    to = settings_file.with_suffix(".tgz")
    to.unlink(missing_ok=True)
    path, _ = write_bundle(subject, to)
    with tarfile.open(path) as tar:
        found = {}
        for entry in tar.getmembers():
            file = tar.extractfile(entry)
            assert file is not None
            found[Path(entry.name).name] = file.read().decode()
    path.unlink()
    return found


def assert_refused(settings_file: Path) -> None:
    with pytest.raises(ConfigError):
        load(str(settings_file))


LEAKS = {  # what is written -> what the bundle says of it
    f'[alerts]\nurls_file = ["", "mailto://u:{MARK}@h", "json://x; {MARK}"]': (
        "alerts.urls_file = (a value)"
    ),
    f'[queries]\nq = [1, "a: {MARK}; x", "long text of {MARK}"]': "queries = (a value)",
    f'[queries]\nq = ["", 1, "select id; -- Frau {MARK}"]': "Expected `str`, got `array`",
    f'[server]\nport = {{h = "authorization: {MARK}"}}': "server.port = (a value)",
    f'[[sinks]]\nname = ["w", "x: {MARK}"]': "sinks[0].name = (a value)",
    f'[[sinks]]\nname = "w"\nkind = "x{MARK}"': "sinks[0].kind = (a value)",
    f'[[sinks]]\nname = "w"\nkind = "webhook"\n{MARK} = 1': "sinks[0]: Object contains unknown",
    f"[server]\nmy-{MARK} = 1": "server.(9): there is no such setting",
    f"[my-{MARK}]\nport = 1": "(9): there is no such setting",
    f'[server]\n"x - at `$.{MARK}" = 1': "it is not of its form",
    f"[{MARK}]\n[{MARK}]": "Cannot declare (a name) (at line 2, column 8)",
    f"a = {{ {MARK} = 1, {MARK} = 2 }}": "Duplicate inline table key (a name)",
    f'[engine]\nkind = "{MARK}"': "it is one of demo, upstream, sglang",
    f'[replica]\nurl = "{MARK}://x"': "replica.url = (a value) must begin with one of file:///",
    f'[privacy.rules]\nab = "(?P<{MARK}"': "(a value) is no regular expression",
    f'[alerts]\ntimezone = "{MARK}"': "alerts.timezone = (a value) is no time zone",
    f'server = "{MARK}"': "server = (a value)",
    f"[server]\nport = nan # {MARK}": "server.port (in",
    f'[device]\nid = "{MARK}"': "device.id = (a value)",
    f"[server]\nport = {'9' * 5000} # {MARK}": "is not TOML: a number is too long",
    f"{MARK} = {'[' * 5000}": "is not TOML: a number is too long",
}


ASKED = [*((each, False) for each in LEAKS), *((each, True) for each in [*LEAKS][:5])]


@pytest.mark.parametrize(
    ("written", "redact"), ASKED, ids=[f"{each[:40]}-{redact}" for each, redact in ASKED]
)
def test_no_value_and_no_name_is_shown(box: Box, written: str, *, redact: bool) -> None:
    file = box.directory / "leaks.toml"
    file.write_text(written)
    assert_refused(file)
    found = bundle_of(file, redact=redact)
    for name, text in found.items():
        assert MARK.lower() not in text.lower(), name
    assert LEAKS[written] in found["config-form.txt"]
    assert LEAKS[written] in json.loads(found["doctor.json"])[0]["found"]


marked = st.sampled_from(
    [
        MARK,
        f"a: {MARK}; x",
        f"'{MARK}'",
        f'"{MARK} = ',
        f"x (in {MARK}",
        f" - at `$.{MARK}",
        "",
        "x",
    ]
)
values = st.recursive(
    marked | st.booleans() | st.integers(-9, 9) | st.floats(width=16),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(marked, inner, max_size=2),
    max_leaves=5,
)
PLACES = (
    "[server]\nport", "[alerts]\nurls_file", "[replica]\nurl", "[queries]\nq", "[engine]\nkind",
    "[engine]\nsglang", "[privacy]\ndetectors", "[privacy]\nrules", "[device]\nid", "sinks",
    '[[sinks]]\nname = "w"\nkind = "webhook"\nurl', "[[sinks]]\nname", "server", "queries",
)  # fmt: skip


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(
        json.dumps(value), json.dumps(value)
    )


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES), value=values, cut=st.integers(0, 3))
def test_nothing_of_any_value_is_told(box: Box, place: str, value: Any, cut: int) -> None:
    """Whole, and with its end cut off."""
    text = f"{place} = {toml(value)}"
    file = box.directory / "any.toml"
    file.write_text(text[: len(text) - cut])
    fault = None
    try:
        load(str(file))
    except ConfigError as exc:
        fault = exc.bare
    assert fault != "", "what is wrong can always be said"
    assert fault is None or MARK not in fault
    assert MARK not in form_of(broken.text_of(file))


@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES), value=values, redact=st.booleans())
def test_no_file_of_a_bundle_has_any_value(
    box: Box, place: str, value: Any, *, redact: bool
) -> None:
    file = box.directory / "any.toml"
    file.write_text(f"{place} = {toml(value)}")
    try:
        load(str(file))
    except ConfigError:
        for name, text in bundle_of(file, redact=redact).items():
            assert MARK not in text, name


def test_database_is_that_which_the_settings_name(tmp_path: Path) -> None:
    """An installed box has it elsewhere, in a folder that has nothing to do with the settings'."""
    data = tmp_path / "data"
    made = Box.init(tmp_path / "etc", "--engine", "demo", "--state-dir", str(data))
    file = made.directory / "edge-store.toml"
    whole = file.read_text()
    for broken_text in (f"{whole}\n[server]\nport = 'x'\n".replace("\n[server]\n", "\n", 1),
                        f"{whole}\n[[sinks\n"):  # fmt: skip
        file.write_text(broken_text)
        assert_refused(file)
        found = bundle_of(file, redact=False)
        assert json.loads(found["rows.json"])["results"] == 0
        checks = {each["name"]: each for each in json.loads(found["doctor.json"])}
        assert str(data / "results.db") in checks["database"]["found"]
        assert str(data) in checks["folder"]["found"]


def test_database_is_that_of_an_installed_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    made = Box.init(tmp_path / "etc", "--engine", "demo", "--state-dir", str(data))
    file = made.directory / "edge-store.toml"
    file.write_text("[server\n")
    monkeypatch.setattr(broken, "SYSTEM_DATA", data)
    assert broken.database_of(file, "[server\n") is None, "it is no installed box"
    monkeypatch.setattr(broken, "SYSTEM_PATH", file)
    assert json.loads(bundle_of(file, redact=False)["rows.json"])["results"] == 0


def test_where_no_database_is_known_none_is_judged(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "edge-store.toml"
    file.parent.mkdir()
    file.parent.chmod(0o777)
    file.write_text(f'[store]\npath = "{tmp_path}/not-mounted/results.db"\n[server\n')
    before = file.parent.stat().st_mtime_ns
    subject = Subject.found(str(file), "edge-store", redact=False)
    checks = {each["name"]: each for each in json.loads(parts.doctor(subject))}
    assert file.parent.stat().st_mtime_ns == before, "nothing is written into that folder"
    assert checks["database"]["found"].startswith("not looked for: ")
    assert not {"folder", "flush", "disk"} & checks.keys()
    assert "not looked for" in parts.machine(subject)
    found = bundle_of(file, redact=True)
    assert found["rows.json"].startswith("not collected: StoreError: not looked for")


HIDDEN_WORDS = ("hook-adresse-geheim", "inhalt-geheim", "alarm-geheim", "passwort-geheim")


@pytest.mark.parametrize("ending", ["[server\n", "[server]\nport = 'x'\n"])
def test_secrets_of_a_broken_file_are_known(tmp_path: Path, ending: str) -> None:
    """As where it can be read: a view's SQL, of whoever wrote a secret there, is without it."""
    made = Box.init(tmp_path / "box", "--engine", "demo")
    file = made.directory / "edge-store.toml"
    (made.directory / "hook.key").write_text("inhalt-geheim\n")
    (made.directory / "urls").write_text("json://alarm-geheim\n")
    file.write_text(
        '[alerts]\nurls_file = "urls"\n[engine]\nsglang = { api_key = "passwort-geheim" }\n'
        '[[sinks]]\nname = "w"\nkind = "webhook"\nsecret_file = "hook.key"\n'
        f'url = "https://host.example/hook-adresse-geheim"\n{ending}'
    )
    assert_refused(file)
    said = ("https://host.example/hook-adresse-geheim", "inhalt-geheim", "json://alarm-geheim")
    with closing(sqlite3.connect(made.database)) as connection:
        words = ", ".join(f"'{word}'" for word in (*said, "passwort-geheim", "not-a-secret"))
        connection.execute(f"CREATE VIEW told AS SELECT {words}")
    schema = bundle_of(file, redact=False)["schema.json"]
    assert "not-a-secret" in schema, "else this proves nothing"
    assert [word for word in HIDDEN_WORDS if word in schema] == []


@pytest.mark.parametrize("redact", [False, True])
def test_variable_at_fault_is_named_and_the_file_is_told(
    box: Box, monkeypatch: pytest.MonkeyPatch, *, redact: bool
) -> None:
    file = box.directory / "edge-store.toml"
    monkeypatch.setenv("EDGE_STORE_SERVER__PORT", f"x: {MARK}")
    monkeypatch.setenv("EDGE_STORE_LOG__LEVEL", "warning")
    found = bundle_of(file, redact=redact)
    failed = json.loads(found["doctor.json"])[0]
    assert failed["found"].startswith("EDGE_STORE_SERVER__PORT = (a value): Expected `int`")
    assert "A variable is at fault, not the file" in found["config-form.txt"]
    told = {each["key"]: each["value"] for each in json.loads(found["config.json"])}
    assert (told["log.level"], told["server.port"]) == ("warning", 8642)
    assert "database" in found["status.json"]
    for name, text in found.items():
        assert MARK not in text, name


def test_variable_that_is_no_setting_is_not_named(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EDGE_STORE_SERVER__{MARK}", "1")
    monkeypatch.setenv(f"EDGE_STORE_{MARK}", "1")
    found = bundle_of(box.directory / "edge-store.toml", redact=False)
    assert json.loads(found["config.json"]), "both are left out"
    for name, text in found.items():
        assert MARK.lower() not in text.lower(), name


def test_command_says_whose_fault_it_is(tmp_path: Path) -> None:
    made = Box.init(tmp_path / "box", "--engine", "demo")
    config = ("--config", str(made.directory), "-o", str(tmp_path / "of-variable.tgz"))
    done = made.run("support-bundle", *config, SERVER__PORT="x")
    assert done.returncode == 0, done.stderr
    assert "as if EDGE_STORE_SERVER__PORT were not set" in done.stderr
    assert str(made.directory) not in done.stderr
