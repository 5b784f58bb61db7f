"""``python -m edge_store.archive.child``: does jobs of ``work.py``, each a line of JSON on the
standard input, answered by one on the standard output. Whoever started it kills it to stop it.
"""

import os
import sys
import traceback

import msgspec

from edge_store.archive.work import Job, Written, carry_out
from edge_store.errors import EdgeStoreError
from edge_store.result import Record

__all__ = ["Answer", "main"]


class Answer(Record, frozen=True, kw_only=True):
    """What was written; or why nothing was."""

    written: Written | None = None
    error: str = ""
    hint: str = ""


def main() -> None:
    """Until the input ends. A job costs little beside the start."""
    os.umask(0o027)  # results are for their owner and group, also where a command has started it
    for line in sys.stdin.buffer:
        answer = _answer(msgspec.json.decode(line, type=Job))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


def _answer(job: Job) -> Answer:
    try:
        return Answer(written=carry_out(job))
    except EdgeStoreError as exc:
        return Answer(error=str(exc), hint=exc.hint)
    except Exception as exc:  # noqa: BLE001  (whose words may be a result's)
        where = traceback.extract_tb(exc.__traceback__)[-1]
        return Answer(
            error=f"the archive's process met {type(exc).__name__} in {where.name}",
            hint="this is a defect: nothing was deleted",
        )


if __name__ == "__main__":
    main()
