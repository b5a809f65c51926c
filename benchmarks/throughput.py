"""Throughput: what one process enqueues, and what it runs from end to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from benchmarks.figures import Bar, Figure, at_least
from benchmarks.raw import BATCH, Raw
from benchmarks.setting import Setting, compared, taking_turns
from benchmarks.tasks import RAW_BATCHED, RAW_SINGLE, against_raw, end_to_end, make_executor, small, started
from durable_sync import DurableExecutor

__all__ = ["measure"]

PART = "throughput"
THREADS = 8
SINGLE: Bar = at_least(0.6)
AT_ONCE = {"SQLite": at_least(1.0), "PostgreSQL": at_least(2.0), "MariaDB": at_least(2.0)}
"""Of one thread's rate."""
END_TO_END = {"SQLite": at_least(0.2), "PostgreSQL": at_least(0.5), "MariaDB": at_least(0.5)}
_FEWER = 10
"""The raw program needs so many times fewer rows to be measured one by one."""


def measure(setting: Setting) -> Iterator[Figure]:
    """All of it, on one database."""
    with closing(Raw(setting.url)) as raw:
        yield from _singly(setting, raw)
        yield _in_bulk(setting, raw)
    # A table of its own, as ours has: what was inserted above would be claimed first.
    with closing(Raw(setting.url, "rawends_")) as raw:
        yield _end_to_end(setting, raw)


def _singly(setting: Setting, raw: Raw) -> Iterator[Figure]:
    number = setting.size(2_000, 200)
    executor = make_executor(setting.url, "single_")
    executor.migrate()
    _enqueue(executor, 50)
    taken = taking_turns(
        setting.rounds,
        {
            "one thread": lambda: _enqueue(executor, number),
            "8 threads": lambda: _enqueue_at_once(executor, number // 4),
            RAW_SINGLE: lambda: _raw_inserts(raw, number, 1),
            RAW_BATCHED: lambda: _raw_inserts(raw, number, BATCH),
        },
    )
    raws = [RAW_BATCHED]
    yield compared(PART, "enqueue, one by one", taken, "one thread", RAW_SINGLE, bar=SINGLE, beside=raws)
    work = f"enqueue, one by one, from {THREADS} threads"
    raws = [RAW_SINGLE, RAW_BATCHED]
    yield compared(PART, work, taken, "8 threads", "one thread", bar=setting.bar(AT_ONCE), beside=raws)


def _enqueue(executor: DurableExecutor, number: int) -> float:
    return _rate(number, lambda: [executor.enqueue(small, place) for place in range(number)])


def _enqueue_at_once(executor: DurableExecutor, number: int) -> float:
    threads = [threading.Thread(target=_enqueue, args=(executor, number)) for _ in range(THREADS)]

    def run() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _rate(number * THREADS, run)


def _raw_inserts(raw: Raw, number: int, batch: int) -> float:
    rows = raw.rows(number)

    def run() -> None:
        for start in range(0, number, batch):
            raw.insert(rows[start : start + batch])

    return _rate(number, run)


def _in_bulk(setting: Setting, raw: Raw) -> Figure:
    number = setting.size(20_000, 2_000)
    executor = make_executor(setting.url, "bulk_")
    executor.migrate()
    taken = taking_turns(
        setting.rounds,
        {
            "ours": lambda: _rate(number, lambda: executor.enqueue_many(small.bind(place) for place in range(number))),
            RAW_BATCHED: lambda: _raw_inserts(raw, number, BATCH),
            RAW_SINGLE: lambda: _raw_inserts(raw, number // _FEWER, 1),
        },
    )
    return compared(PART, f"enqueue_many, {number:,}", taken, "ours", RAW_BATCHED)


def _end_to_end(setting: Setting, raw: Raw) -> Figure:
    number = setting.size(20_000, 2_000)
    with started(setting.url, "ends_") as executor:
        taken = taking_turns(
            setting.rounds,
            {
                "ours": lambda: end_to_end(executor, number),
                **against_raw(raw, number),
            },
        )
    work = f"end to end, {number:,} tasks, 8 workers"
    return compared(PART, work, taken, "ours", RAW_BATCHED, bar=setting.bar(END_TO_END))


def _rate(number: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return number / (time.perf_counter() - began)
