"""``python -m edge_store.archive.child``: does one job of ``work.py``. It is given as JSON on the
standard input, and answered on the standard output. Whoever started it kills it to stop it.
"""

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
    """Read the job, do it, answer."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        answer = Answer(written=carry_out(job))
    except EdgeStoreError as exc:
        answer = Answer(error=str(exc), hint=exc.hint)
    except Exception as exc:  # noqa: BLE001  (whose words may be a result's)
        where = traceback.extract_tb(exc.__traceback__)[-1]
        answer = Answer(
            error=f"the archive's process met {type(exc).__name__} in {where.name}",
            hint="this is a defect: nothing was deleted",
        )
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
