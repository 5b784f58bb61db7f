"""Real SGLang: its own server as a process, and the settings of one inside the daemon.

Needs the virtual environment and the model that ``scripts/sglang-cpu`` makes; its ``test`` command
names the model in ``SGLANG_TEST_MODEL``. A start takes some 40 CPU seconds. On a GPU
``scripts/sglang-gpu`` runs the same, and says in ``SGLANG_TEST_ARGUMENTS`` what that card wants.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from support.daemon import until

__all__ = [
    "MODEL",
    "START_S",
    "SglangServer",
    "box_settings",
    "descendants",
    "environ",
    "model_path",
    "sglang_server",
    "sglang_version",
    "skip_if_not_served",
]

MODEL = "tiny"
CONTEXT_TOKENS = 2048  # of the model
START_S = 180.0  # 25 s on two idle cores
STOP_S = 20.0

ON_CPU: dict[str, Any] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "disable_cuda_graph": True,
    "disable_overlap_schedule": True,
}
ON_GPU = os.environ.get("SGLANG_TEST_ARGUMENTS")  # JSON
ARGUMENTS: dict[str, Any] = {
    **(json.loads(ON_GPU) if ON_GPU else ON_CPU),
    "served_model_name": MODEL,
    "tool_call_parser": "pythonic",  # one of those that hold a call to its JSON schema
    "sleep_on_idle": True,  # else its scheduler keeps a core busy while nobody asks
    "context_length": CONTEXT_TOKENS,
    "max_total_tokens": 8192,
    "max_running_requests": 32,
}
NOT_SERVED = {
    "0.5.6": ("/v1/messages", "/api/chat", "/api/generate"),  # which came later
    "0.5.17": ("/api/chat",),  # 500, with transformers 5
}
# What the daemon says by itself, and SGLang's own server must be told.
OUR_DEFAULTS = {"grammar_backend": "xgrammar", "constrained_json_disable_any_whitespace": True}


class SglangServer(NamedTuple):
    """A server that answers."""

    url: str
    model: str
    process_id: int


def model_path() -> str:
    path = os.environ.get("SGLANG_TEST_MODEL")
    assert path, "SGLANG_TEST_MODEL names no model: run these tests by `scripts/sglang-cpu test`"
    return path


def environ() -> dict[str, str]:
    """What SGLang needs of an environment."""
    on_cpu = {
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "1",  # the model is too small to share
    }
    return {
        "HF_HUB_OFFLINE": "1",
        "HOME": os.environ.get("HOME", "/"),
        **({} if ON_GPU else on_cpu),
    }


def box_settings() -> dict[str, str]:
    """Of a ``Box`` whose daemon runs SGLang in its own process."""
    arguments = {**ARGUMENTS, "model_path": model_path()}
    return {
        "ENGINE__KIND": "sglang",
        **{f"ENGINE__SGLANG__{key.upper()}": json.dumps(v) for key, v in arguments.items()},
    }


@contextmanager
def sglang_server(log: Path) -> Iterator[SglangServer]:
    """``python -m sglang.launch_server``, until left; then nothing of its process tree is left.

    ``log`` takes its output.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = []
    arguments = {**ARGUMENTS, **OUR_DEFAULTS, "model_path": model_path(), "port": port}
    for name, value in arguments.items():
        flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sglang.launch_server", *flags],
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environ()},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_generates(url, process, log)
        yield SglangServer(url, MODEL, process.pid)
    finally:
        _end_group(process)


def _wait_until_it_generates(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(f"{url}/health_generate", timeout=STOP_S).status_code == 200:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        said = log.read_text(errors="replace")[-4000:]
        assert process.poll() is None, f"sglang.launch_server ended: {process.returncode}\n{said}"
        assert time.monotonic() < ends_at, f"sglang.launch_server is not up in {START_S} s\n{said}"
        time.sleep(0.2)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the server, and whatever of its process group stays."""
    process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)
    until(lambda: not is_group_alive(process.pid), f"process group {process.pid} has ended", STOP_S)


def is_group_alive(group_id: int) -> bool:
    try:
        os.killpg(group_id, 0)
    except ProcessLookupError:
        return False
    return True


def descendants(process_id: int) -> dict[int, str]:
    """The names of all processes below this one, by their id."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            after_name = stat.read_text().rpartition(")")[2].split()  # state, parent, …
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found: dict[int, str] = {}
    waiting = [process_id]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child)
            with suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                found[child] = command.split(b"\0")[0].decode()
    return found


def sglang_version() -> str:
    """Of the SGLang that these tests run."""
    return version("sglang")


def skip_if_not_served(path: str, kind: str) -> None:
    """What this version's own server does not answer; the daemon mends the one of 0.5.17."""
    version = sglang_version()
    if kind == "upstream" and path in NOT_SERVED.get(version, ()):
        pytest.skip(f"SGLang {version}'s own server does not answer {path}")
