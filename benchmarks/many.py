"""Several processes on one database: what they run in all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

from sqlalchemy import func, select

from benchmarks.figures import Figure
from benchmarks.processes import Worker
from benchmarks.raw import Raw
from benchmarks.setting import Setting, compared, taking_turns
from benchmarks.tasks import RAW, against_raw, make_executor, small
from durable_sync import DurableExecutor

__all__ = ["measure"]

PART = "processes"
COUNTS = (1, 2, 4)


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database."""
    number = setting.size(20_000, 2_000)
    turns = (f"turn{place}_" for place in range(setting.rounds * len(COUNTS)))
    names = {count: f"{count} process{'es' if count > 1 else ''} of 8 workers" for count in COUNTS}
    with closing(Raw(setting.url)) as raw:
        taken = taking_turns(
            setting.rounds,
            {
                **{name: partial(_run, setting.url, turns, count, number) for count, name in names.items()},
                **against_raw(raw, number),
            },
        )
    for name in names.values():
        yield compared(PART, f"{number:,} tasks, {name}", taken, name, names[1], beside=RAW)


def _run(url: str, prefixes: Iterator[str], processes: int, number: int) -> float:
    """Tasks a second, from the first start to the last end; all were enqueued before, into tables of their own."""
    prefix = next(prefixes)
    executor = make_executor(url, prefix)
    executor.enqueue_many(small.bind(place) for place in range(number))
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(url, prefix)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        executor.drain(timeout=600)
    return number / _span(executor)


def _span(executor: DurableExecutor) -> float:
    storage = executor._desk.storage  # noqa: SLF001
    c = storage.sql.executions.c
    with storage.database.engine.connect() as connection:
        first, last = connection.execute(select(func.min(c.first_started_at), func.max(c.finished_at))).one()
    return float(last - first) / 1e6
