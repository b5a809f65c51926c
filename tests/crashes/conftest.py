"""Closes what the tests of crashes open, before their databases go."""

from __future__ import annotations

import pytest

from tests import leftovers

leftovers.watch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    leftovers.shut_down()
