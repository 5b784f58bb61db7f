"""What the log has of an exception: nothing that it may quote."""

import sys

from edge_store.errors import DiskFull, EngineError
from edge_store.observability.logging import without_messages

SECRET = "sphinx of black quartz"


def logged(raising: Exception, cause: BaseException | None = None) -> str:
    try:
        raise raising from cause
    except Exception:  # noqa: BLE001  (whatever it was given)
        return str(without_messages(None, "", {"exc_info": sys.exc_info()})["exception"])


def test_foreign_exceptions_have_type_and_frames_without_message() -> None:
    inner = ExceptionGroup(SECRET, [ValueError(SECRET), EngineError(SECRET)])
    text = logged(KeyError(SECRET), inner)
    assert SECRET not in text
    for name in ("builtins.KeyError", "ExceptionGroup", "ValueError", "EngineError"):
        assert name in text
    assert "test_logged_exceptions.py" in text


def test_what_is_about_the_disk_has_its_message() -> None:
    assert "DiskFull: no room" in logged(DiskFull("no room"))
