"""Closes what the tests of races open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.races import holding


@pytest.fixture(autouse=True)
def _closed_storages() -> Iterator[None]:
    yield
    while holding.opened:
        holding.opened.pop().database.dispose()
