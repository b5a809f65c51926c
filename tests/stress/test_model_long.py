"""The model of tests/races, with many more and longer histories."""

from __future__ import annotations

import pytest

from tests.races.test_model import drive


@pytest.mark.timeout(1800)
def test_a_storage_is_what_the_model_says(database_url: str) -> None:
    """In any order of verbs, however long it goes on, both stay the same and keep the promises."""
    drive(database_url, examples=1500, steps=80)
