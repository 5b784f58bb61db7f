"""The keys of a store are in no file of the box, no output, and no command line of any process."""

import base64
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest
from support.daemon import Box, DaemonProcess, until
from support.s3server import S3Server
from support.sshserver import SSHD, SshServer, make_key, secret_lines

LOOK_S = 0.02
SECRET, WRONG = "Never/seen+anywhere+0123456789", "Wrong/and+not+seen+either+987654"
# Another one, as the test of a bucket may run beside: its server has its keys as arguments.
OF_CLOUDS = "Nor/of+any+other+cloud+3141592653"
CHECK = ("replica", "check")
COMMANDS = (CHECK, ("replica", "status", "--json"), ("config", "show"), ("doctor",))


class SecretServer(S3Server):
    secret_access_key = SECRET


class CommandLines:
    """Entered: what `ps` would show, of every process that begins from now on."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._before = set(self._processes())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _processes(self) -> list[str]:
        return [each.name for each in Path("/proc").iterdir() if each.name.isdigit()]

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            for name in self._processes():
                if name not in self._before:
                    with suppress(OSError):
                        line = Path("/proc", name, "cmdline").read_bytes()
                        self.seen.add(line.decode(errors="replace"))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def forms(secret: str) -> list[str]:
    return [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")]


def assert_nowhere(secrets: Sequence[str], texts: dict[str, str]) -> None:
    found = [
        where
        for where, text in texts.items()
        for secret in secrets
        if any(form in text for form in forms(secret))
    ]
    assert found == []


def files_of(*folders: Path) -> dict[str, str]:
    return {
        str(path): path.read_bytes().decode("latin-1")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def outputs(box: Box, commands: Sequence[Sequence[str]]) -> dict[str, str]:
    said = {}
    for command in commands:
        done = box.run(*command, "--config", str(box.directory))
        said[" ".join(command)] = done.stdout + done.stderr
    return said


def replica(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/readyz").json()["replica"]
    return found


def served(box: Box, name: str, state: str, commands: Sequence[Sequence[str]]) -> dict[str, str]:
    """What a daemon, and the commands beside it, say until replication has come to ``state``."""
    with box.serve(REPLICA__ENABLED="true", LOG__LEVEL="debug") as daemon:
        assert daemon.chat("hello").status_code == 200
        until(lambda: replica(daemon)["state"] == state, f"it is {state}", 120)
        said = outputs(box, commands)
        said |= {path: daemon.get(path).text for path in ("/readyz", "/metrics", "/health")}
        daemon.stop()
    return {f"{name}: {where}": text for where, text in said.items()} | {name: daemon.output()}


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[SecretServer]:
    with SecretServer(tmp_path / "s3") as server:
        yield server


def test_keys_of_a_bucket_are_seen_nowhere(tmp_path: Path, s3: SecretServer) -> None:
    """Good ones of the environment; then wrong ones of systemd, which come before them."""
    box = Box.init(tmp_path / "box", REPLICA__URL=s3.url("fleet"), REPLICA__OWNER_CHECK_S="2")
    box.environ |= s3.environ
    with CommandLines() as lines:
        said = served(box, "works", "ok", COMMANDS)
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "aws-secret-access-key").write_text(f"{WRONG}\n")
        box.environ |= {"CREDENTIALS_DIRECTORY": str(credentials)}
        said |= served(box, "refused", "offline", [CHECK])
    assert any("litestream\0replicate" in line for line in lines.seen)
    assert "the secret is not this key id's" in said["refused: replica check"]
    ps = {"ps": "\n".join(lines.seen)}
    assert_nowhere([SECRET, WRONG], {**said, **ps, **files_of(box.directory)})


@pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")
def test_private_key_of_sftp_is_seen_nowhere(tmp_path: Path) -> None:
    """A daemon's is looked for in test_replica_sftp.py."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    make_key(tmp_path / "stranger", "ed25519")
    with SshServer(tmp_path / "ssh") as ssh, CommandLines() as lines:
        box = Box.init(tmp_path / "box", REPLICA__URL=ssh.url("fleet").partition("&key_file")[0])
        box.environ |= {"CREDENTIALS_DIRECTORY": str(credentials)}
        said: dict[str, str] = {}
        keys = {"known": ssh.key_file, "stranger": tmp_path / "stranger"}
        for name, key in keys.items():
            (credentials / "sftp-key").write_bytes(key.read_bytes())
            said |= {f"{name}: {where}": text for where, text in outputs(box, [CHECK]).items()}
    assert "reaches it too" in said["known: replica check"]
    assert "refuses this user's key" in said["stranger: replica check"]
    secrets = [line for key in keys.values() for line in secret_lines(key)]
    ps = {"ps": "\n".join(lines.seen)}
    assert_nowhere(secrets, {**said, **ps, **files_of(box.directory)})


@pytest.fixture
def unheard() -> Iterator[int]:
    """A port that refuses connections, and that nobody else is given."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_keys_of_google_and_azure_are_seen_nowhere(tmp_path: Path, unheard: int) -> None:
    """Nothing answers there; what is said of that is looked at."""
    dead = f"http://127.0.0.1:{unheard}"
    account = {
        "type": "service_account",
        "client_email": "edge@example.com",
        "private_key_id": "1",
        "private_key": OF_CLOUDS,
        "gcs_base_url": dead,
        "disable_oauth": True,
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    azure_key = base64.b64encode(OF_CLOUDS.encode()).decode()
    box = Box(tmp_path / "box")
    box.environ |= {
        "AZURE_STORAGE_ACCOUNT_KEY": azure_key,
        "GOOGLE_APPLICATION_CREDENTIALS": str(file),
    }
    said = {}
    with CommandLines() as lines:
        for url in ("gs://edge/a", f"abs://account@edge/a?endpoint={dead}"):
            for command in (CHECK, ("replica", "points", "--device", "box")):
                done = box.run(*command, "--from", url)
                said[f"{command} {url}"] = done.stdout + done.stderr
    assert all("cannot be reached" in text for text in said.values()), said
    assert_nowhere([OF_CLOUDS, azure_key], {**said, "ps": "\n".join(lines.seen)})
