"""``python -m support.pull_child URL FOLDER``: pulls that are killed at a chosen point.

For each line ``POINT MICROSECONDS [STEP]`` it forks a process that pulls, and that SIGKILLs itself
so long after its POINT-th step: a file opened, linked, renamed or removed, a folder made, a process
started; or the POINT-th of that name. It answers ``STATUS STEPS``; POINT 0 is never reached.
Whoever forks here has imported everything, and started nothing.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import structlog
from support.fleet_pulls import pull_once

STEPS = frozenset({
    "open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "fcntl.flock",
    "os.truncate", "shutil.rmtree", "shutil.copyfile", "subprocess.Popen", "os.posix_spawn",
})  # fmt: skip


def pulled(url: str, into: Path, point: int, after_s: float, says: int, *only: str) -> None:
    """In the forked process: ends it."""
    counted = only or STEPS
    steps, lock = 0, threading.Lock()

    def end() -> None:
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, _arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event not in counted:
            return
        with lock:
            steps += 1
            is_point = steps == point
        if is_point and after_s:
            threading.Thread(target=end, daemon=True).start()
        elif is_point:
            end()

    sys.addaudithook(hook)
    asyncio.run(pull_once(url, into))
    os.write(says, str(steps).encode())
    os._exit(0)


def main() -> None:
    url, into = sys.argv[1], Path(sys.argv[2])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print("ready", flush=True)
    for line in sys.stdin:
        point, microseconds, *only = line.split()
        reads, writes = os.pipe()
        child = os.fork()
        if not child:
            try:
                pulled(url, into, int(point), int(microseconds) / 1e6, writes, *only)
            finally:
                os._exit(3)
        os.close(writes)
        _, status = os.waitpid(child, 0)
        steps = os.read(reads, 100).decode()
        os.close(reads)
        print(os.waitstatus_to_exitcode(status), steps or point, flush=True)


if __name__ == "__main__":
    main()
