"""OpenSSH's sshd on loopback, run by this user, with keys of its own. It serves SFTP only."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from support.s3server import free_port

__all__ = ["SSHD", "SshServer", "make_key", "public_key", "secret_lines"]

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
DEADLINE_S = 60.0


class SshServer:
    """Entered: it answers. It has two host keys, as a Debian host has three."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.files = folder / "files"
        self.port = free_port()
        self.key_file = folder / "id_ed25519"
        for name, kind in (("id_ed25519", "ed25519"), ("host", "ed25519"), ("host2", "ecdsa")):
            make_key(folder / name, kind)
        shutil.copy(folder / "id_ed25519.pub", folder / "authorized_keys")
        self.host_key = public_key(folder / "host2.pub")  # which Litestream asks for
        self.second_host_key = public_key(folder / "host.pub")
        self._config = folder / "sshd_config"
        self._config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
            f"HostKey {folder}/host2\nPidFile none\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\nLogLevel ERROR\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str, *, host_key: str | None = None, key_file: Path | None = None) -> str:
        """``replica.url`` for a folder on it."""
        options = f"host_key={quote(host_key or self.host_key, safe='/+=')}"
        options += f"&key_file={key_file or self.key_file}"
        user = getpass.getuser()
        return f"sftp://{user}@127.0.0.1:{self.port}{self.files}/{prefix}?{options}"

    def __enter__(self) -> Self:
        if os.geteuid() == 0:  # where a system's sshd parts its privileges
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None
        self._process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self._config)], stderr=subprocess.DEVNULL
        )
        ends_at = time.monotonic() + DEADLINE_S
        while True:
            assert self._process.poll() is None, "sshd has ended"
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            assert time.monotonic() < ends_at, "sshd does not answer"
            time.sleep(0.02)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE_S)


def make_key(path: Path, kind: str, passphrase: str = "") -> None:
    """A private key at ``path``, its public part beside it."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def public_key(path: Path) -> str:
    """The base64 part."""
    return path.read_text().split()[1]


def secret_lines(path: Path) -> list[str]:
    """Of a private key: those that have nothing of its public part, which comes first."""
    lines = path.read_text().splitlines()[3:-1]
    assert lines
    return lines
