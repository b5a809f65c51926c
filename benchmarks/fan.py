"""Fan-out and fan-in: many children under one parent, against as many plain tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks.figures import Figure, at_least
from benchmarks.raw import Raw
from benchmarks.setting import Setting, compared, taking_turns
from benchmarks.tasks import against_raw, end_to_end, family, started
from durable_sync import DurableExecutor

__all__ = ["measure"]

PART = "fan"
BAR = at_least(0.6)


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database."""
    number = setting.size(10_000, 1_000)
    with closing(Raw(setting.url)) as raw, started(setting.url) as executor:
        taken = taking_turns(
            setting.rounds,
            {
                "ours": lambda: _family(executor, number),
                "plain tasks": lambda: end_to_end(executor, number),
                **against_raw(raw, number),
            },
        )
    yield compared(PART, f"{number:,} children under one parent", taken, "ours", "plain tasks", bar=BAR)


def _family(executor: DurableExecutor, number: int) -> float:
    began = time.perf_counter()
    executor.enqueue(family, number).wait(timeout=600)
    return number / (time.perf_counter() - began)
