"""A pool full of functions that never return."""

from __future__ import annotations

import signal
from itertools import accumulate
from pathlib import Path

import psutil
import pytest

from tests.crashes.processes import Worker, wait_for_text
from tests.faults.figures import LENIENCE, database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.workload import EXPECTED, plain, stubborn, stuck
from tests.waiting import wait_until

WORKERS = 4
TIMEOUT = 0.3
GRACE = size(full=5.0, short=0.5)
"""Seconds after which a thread is given up on; five is what the library allows."""
NEVER = 100_000.0
STANDSTILL = TIMEOUT + GRACE + 2.0
"""Seconds within which other work goes on."""
REPLACED = "another took its place"
NARROWS = "this process now runs fewer at once"
STANDS = "this process runs nothing until one of them ends"


@pytest.mark.timeout(300)
def test_stuck_threads(database_url: str, tmp_path: Path) -> None:
    """What never returns is reported, its threads are replaced up to the cap, and other work goes on."""
    with Laboratory(database_url, tmp_path, max_workers=WORKERS) as laboratory:
        worker = laboratory.start_with("--grace", str(GRACE))
        whole = width(laboratory)
        threads = psutil.Process(worker.pid).num_threads()
        first = lose(laboratory, worker, WORKERS, REPLACED)
        replaced = width(laboratory)
        second = lose(laboratory, worker, WORKERS - 1, NARROWS)
        narrow = width(laboratory)
        grown = psutil.Process(worker.pid).num_threads() - threads
        lose(laboratory, worker, 1, STANDS, heir=True)
        worker.send(signal.SIGTERM)
        code = worker.wait(20)
        problems = laboratory.problems(expected={**EXPECTED, "stubborn": {"timed_out"}})
    note(
        "stuck_threads",
        database_of(database_url),
        stuck=2 * WORKERS,
        at_once=[whole, replaced, narrow],
        more_threads=grown,
        standstill=round(max(first, second), 2),
        problems=len(problems),
    )
    assert problems == []
    assert [whole, replaced, narrow] == [WORKERS, WORKERS, 1]
    assert grown <= WORKERS
    assert max(first, second) <= STANDSTILL + LENIENCE
    assert code == 0


@pytest.mark.timeout(300)
def test_threads_that_come_back(sqlite_url: str, tmp_path: Path) -> None:
    """A process that has lost more threads than it may replace is whole again once they have come back."""
    release = tmp_path / "release"
    with Laboratory(sqlite_url, tmp_path, max_workers=WORKERS) as laboratory:
        worker = laboratory.start_with("--grace", "0.3")
        laboratory.enqueue([stuck.options(timeout=TIMEOUT).bind(str(release))] * (2 * WORKERS))
        wait_for_text(worker, STANDS, 20)
        laboratory.enqueue([plain.bind(0.01)])
        release.touch()
        assert laboratory.settle(20.0) < 20.0, "the work does not go on when they are back"
        wait_until(lambda: ends_of(laboratory, "stuck") == 2 * WORKERS, 20, "all are back")
        assert width(laboratory) == WORKERS
        assert laboratory.problems(expected={**EXPECTED, "stuck": {"timed_out"}}) == []


def lose(laboratory: Laboratory, worker: Worker, number: int, report: str, *, heir: bool = False) -> float:
    """Has so many threads stuck, with other work behind them; seconds from the last of them to the first of the rest.

    The log tells of each. `heir`: another process does the rest.
    """
    told = worker.log.count(report)
    stuck = laboratory.enqueue([stubborn.options(timeout=TIMEOUT, priority=1).bind(NEVER)] * number)
    wait_until(lambda: set(stuck) <= started(laboratory).keys(), 20, "all are stuck")
    rest = laboratory.enqueue([plain.bind(0.01)] * 20)
    wait_until(lambda: worker.log.count(report) == told + number, STANDSTILL + 20, lambda: worker.log)
    if heir:
        laboratory.start()
    left = laboratory.settle(60.0)
    assert left < 60.0, worker.log
    at = started(laboratory)
    return min(at[name] for name in rest) - max(at[name] for name in stuck)


def started(laboratory: Laboratory) -> dict[str, float]:
    """When each execution was started."""
    return {start.execution_id: start.at for start in laboratory.account().history.starts}


def ends_of(laboratory: Laboratory, task_id: str) -> int:
    """How many runs of a task have come to their end."""
    told = laboratory.account().history
    own = {start.uid for start in told.starts if start.task_id == task_id}
    return sum(end.uid in own for end in told.ends)


def width(laboratory: Laboratory) -> int:
    """How many executions run at once now, if there are more."""
    ids = set(laboratory.enqueue([plain.bind(0.3)] * (WORKERS + 1)))
    laboratory.settle(60.0)
    told = laboratory.account().history
    steps = [(start.at, 1) for start in told.starts if start.execution_id in ids]
    steps += [(end.at, -1) for end in told.ends if end.execution_id in ids]
    return max(accumulate(step for _, step in sorted(steps)))
