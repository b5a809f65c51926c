"""Closes what the tests of races open, before their databases go."""

from __future__ import annotations

import pytest

from tests import leftovers
from tests.races import holding

leftovers.watch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    leftovers.shut_down()
    while holding.opened:
        holding.opened.pop().database.retire()
