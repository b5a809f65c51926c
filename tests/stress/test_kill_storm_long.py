"""The storm of tests/crashes, longer and harder: 10,000 tasks, a kill every half second, and suspended processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes.storm import Storm


@pytest.mark.timeout(900)
def test_a_long_storm_of_kills_and_suspensions(database_url: str, tmp_path: Path) -> None:
    """Whatever processes die or are suspended past their lease, all is completed once, by its last valid attempt."""
    storm = Storm(tasks=10_000, processes=4, kill_every=0.5, suspensions=0.3, deadline=600)
    verdict, crashes, took = storm.blow(database_url, tmp_path)
    slowest = max(verdict.recoveries, default=0.0)
    print(f"{len(crashes)} kills in {took:.0f} s, {len(verdict.recoveries)} recoveries, the slowest {slowest:.2f} s")
    assert not verdict.problems, "\n".join(verdict.problems[:20])
    assert len(crashes) >= 30
