"""Tells the figures of a full run whether their test has passed."""

from __future__ import annotations

import pytest

from tests.faults.figures import IS_FULL, confirm


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Each bar that a test has is held once it has passed, and until it passes again."""
    if IS_FULL and report.when != "teardown":
        confirm(report.nodeid, held=report.when == "call" and report.passed)
