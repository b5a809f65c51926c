"""Processes killed with `kill -9` while work runs: nothing lost, nothing twice, nothing stale.

1,000 tasks here; the full 2,000, and harder storms, are in tests/stress.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes.storm import Storm


@pytest.mark.timeout(180)
def test_a_storm_of_kills(database_url: str, tmp_path: Path, record_property) -> None:
    """Whatever processes die, every execution completes once, by its last valid attempt, and soon."""
    verdict, crashes, took = Storm(tasks=1000).blow(database_url, tmp_path)
    slowest = max(verdict.recoveries, default=0.0)
    print(
        f"{len(crashes)} kills in {took:.1f} s, {len(verdict.recoveries)} attempts lost and started again, "
        f"the slowest after {slowest:.2f} s"
    )
    record_property("slowest_recovery", slowest)
    assert not verdict.problems, "\n".join(verdict.problems[:20])
    assert len(crashes) >= 3
    assert verdict.recoveries, "no crash hit a running attempt: the storm was none"
