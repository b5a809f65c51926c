"""The storms of tests/crashes in full: 2,000 tasks, and a harder one with suspended processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes.storm import Storm


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "storm",
    [
        Storm(tasks=2_000, deadline=300),
        Storm(tasks=5_000, processes=4, kill_every=0.5, suspensions=0.3, deadline=600),
    ],
    ids=["2,000 tasks", "5,000 tasks and suspensions"],
)
def test_a_long_storm(database_url: str, tmp_path: Path, storm: Storm) -> None:
    """Whatever processes die or are suspended past their lease, all is completed once, by its last valid attempt."""
    verdict, crashes, took = storm.blow(database_url, tmp_path)
    slowest = max(verdict.recoveries, default=0.0)
    print(f"{len(crashes)} kills in {took:.0f} s, {len(verdict.recoveries)} recoveries, the slowest {slowest:.2f} s")
    assert not verdict.problems, "\n".join(verdict.problems[:20])
    assert len(crashes) >= 5
