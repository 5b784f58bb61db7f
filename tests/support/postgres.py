"""A PostgreSQL of this machine's own programs, on a socket in a folder, without a network."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 180


def binaries() -> Path | None:
    """Where Debian puts them; the newest."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database; the test is skipped where there is no PostgreSQL."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    user = None
    if os.getuid() == 0:  # it refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="edge-store-pg-"))  # short: it holds a socket
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        name = "postgres" if user is not None else None
        data = folder / "data"
        quiet = f"-c listen_addresses='' -c fsync=off -k {folder}"
        commands: tuple[list[str | Path], ...] = (
            [programs / "initdb", "-D", data, "--auth=trust", "--username=me", "-E", "UTF8", "-N"],
            [
                programs / "pg_ctl",
                "-D",
                data,
                "-o",
                quiet,
                "-l",
                folder / "log",
                "-w",
                "-t",
                f"{START_S}",
                "start",
            ],
        )
        for command in commands:
            subprocess.run(command, check=True, user=name, cwd=folder, timeout=START_S,
                           stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            yield f"postgresql://me@/postgres?host={folder}"
        finally:
            subprocess.run(
                [programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"],
                check=True, user=name, cwd=folder, timeout=START_S, stdout=subprocess.DEVNULL,
            )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
