"""The repair worker's program: reads jobs from stdin, writes what became of them to stdout.

Holds no state, so it may be killed at any instruction. Ends when stdin does, which is when the
daemon has gone; while it is busy, the kernel's alarm ends it soon after the daemon would have.

Arguments: bytes of address space, bytes of the longest text to repair, seconds for one answer.
"""

import os
import resource
import signal
import sys
from typing import BinaryIO

from edge_store.jsonrepair.assess import steps
from edge_store.jsonrepair.protocol import EXIT_MEMORY, LENGTH_BYTES, decode_job, frame
from edge_store.redaction import Job, carry_out

RECURSION_MAX = 5000  # a few frames of jsonschema for each of 1000 levels; fits an 8 MiB stack
DESCRIPTOR_MAX = 1 << 20  # Linux: fs.nr_open
ALARM_AFTER_S = 1.0  # past the deadline: time for the daemon to do it


def main(memory_bytes_max: int, input_bytes_max: int, deadline_s: float) -> None:
    """Answer until stdin ends."""
    os.closerange(3, DESCRIPTOR_MAX)  # uvloop hands down what the daemon itself was given
    _limit(resource.RLIMIT_AS, memory_bytes_max)
    _limit(resource.RLIMIT_CORE, 0)  # a dump would put answers on the disk
    sys.setrecursionlimit(RECURSION_MAX)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(bytes(LENGTH_BYTES))
    sink.flush()
    while body := _read(source):
        signal.setitimer(signal.ITIMER_REAL, deadline_s + ALARM_AFTER_S)  # SIGALRM kills
        wanted = decode_job(body)
        answers = (
            iter((carry_out(wanted),))
            if isinstance(wanted, Job)
            else steps(wanted, input_bytes_max)
        )
        for answer in answers:
            sink.write(frame(answer))
            sink.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit(which: int, value: int) -> None:
    """Lower a limit of this process, for good."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _read(source: BinaryIO) -> bytes:
    """The body of the next frame; empty at the end of the stream, which may come inside a frame."""
    head = source.read(LENGTH_BYTES)
    length = int.from_bytes(head, "big") if len(head) == LENGTH_BYTES else 0
    body = source.read(length)
    return body if len(body) == length else b""


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except MemoryError:
        os._exit(EXIT_MEMORY)  # no memory to say more
    except BrokenPipeError:
        os._exit(0)  # the daemon has gone
