"""Waits for what a background loop does, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.gates import PATIENCE
from tests.waiting import wait_until

__all__ = ["counted", "wait_for_steps"]


def counted(monkeypatch: pytest.MonkeyPatch, loop: Any) -> Callable[[], int]:
    """How many steps of this loop object have ended."""
    steps = [0]
    step = loop.step

    def count_step() -> float:
        try:
            return step()
        finally:
            steps[0] += 1

    monkeypatch.setattr(loop, "step", count_step)
    return lambda: steps[0]


def wait_for_steps(steps: Callable[[], int], number: int) -> None:
    """Returns once so many more steps have ended."""
    goal = steps() + number
    wait_until(lambda: steps() >= goal, PATIENCE, f"{number} more steps")
