"""Before any test: what whoever started them may have left this process with; and what CI asks."""

import os
import signal
from collections.abc import Generator

import pytest

# A shell's background job ignores SIGINT, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With NO_SKIPS a test that skips fails: CI's machine has what the tests need."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "NO_SKIPS" in os.environ:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"NO_SKIPS: {reason}"
    return report
