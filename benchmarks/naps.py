"""Tasks that wait: many of 10 ms on 64 workers, against a pool of as many threads without a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.figures import Figure, at_least
from benchmarks.setting import Setting, taking_turns
from benchmarks.tasks import make_executor, nap, ripened

__all__ = ["measure"]

PART = "naps"
WORKERS = 64
SECONDS = 0.01
IDEAL = WORKERS / SECONDS
BARS = {"SQLite": at_least(0.85), "PostgreSQL": at_least(0.85)}


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database."""
    number = setting.size(60_000, 3_000)
    taken = taking_turns(
        setting.rounds,
        {
            "ours": lambda: _naps(setting.url, number),
            "threads alone": lambda: _threads_alone(number),
        },
    )
    rate = median(taken["ours"])
    yield Figure(
        part=PART,
        work=f"{number:,} tasks of 10 ms, {WORKERS} workers",
        value=rate,
        unit="/s",
        limits={"ideal": IDEAL, "threads alone": median(taken["threads alone"])},
        against="ideal",
        ratio=rate / IDEAL,
        bar=setting.bar(BARS),
    )


def _naps(url: str, number: int) -> float:
    return ripened(make_executor(url, workers=WORKERS), (nap.bind(SECONDS) for _ in range(number)))


def _threads_alone(number: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(number):
            pool.submit(time.sleep, SECONDS)
    return number / (time.perf_counter() - began)
