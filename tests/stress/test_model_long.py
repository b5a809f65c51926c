"""The model of tests/races, with many more and longer histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.races.test_model import TwoExecutors

TestTwoExecutors = TwoExecutors.TestCase
TestTwoExecutors.settings = settings(
    max_examples=1500, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwoExecutors.pytestmark = [pytest.mark.timeout(1800)]
