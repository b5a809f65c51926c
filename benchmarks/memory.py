"""Memory over many tasks whose handles are dropped."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from benchmarks.figures import Figure, at_most
from benchmarks.processes import told
from benchmarks.setting import Setting
from benchmarks.tasks import make_executor, small
from durable_sync import DurableExecutor

__all__ = ["main", "measure"]

PART = "memory"
STEPS = 20
GROWTH = at_most(15.0, of_value=True)
FLAT = at_most(2.0, of_value=True)
"""What "flat" is: the allocator alone moves by as much."""
_AT_ONCE = 500
_SINGLY = 10
"""One in so many is enqueued by itself, and waited for."""


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database, in a process of its own."""
    number = setting.size(100_000, 4_000)
    course = told("memory", setting.url, number)
    idle = course[0][1]
    points = [(done, used - idle) for done, used in course]
    grown, half = points[-1][1], points[STEPS // 2][1]
    yield Figure(part=PART, work=f"grown after {number:,} tasks", value=grown, unit="MB", bar=GROWTH, points=points)
    yield Figure(part=PART, work=f"of that after the first {number // 2:,}", value=grown - half, unit="MB", bar=FLAT)
    yield Figure(part=PART, work="of the idle process, imports and all", value=idle, unit="MB")


def main(url: str, number: str) -> None:
    """Runs that many tasks in steps; prints (tasks, megabytes) after each."""
    step = int(number) // STEPS
    process = psutil.Process()
    with make_executor(url) as executor:
        course = [(0, _megabytes(process))]
        for place in range(1, STEPS + 1):
            _run(executor, step)
            course.append((place * step, _megabytes(process)))
    print(json.dumps(course))


def _run(executor: DurableExecutor, number: int) -> None:
    for _ in range(number // _SINGLY):
        executor.enqueue(small, 1).result()
    left = number - number // _SINGLY
    while left > 0:
        executor.enqueue_many([small.bind(1)] * min(_AT_ONCE, left))
        left -= _AT_ONCE
    executor.drain()


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
