"""Long and short tasks mixed, on two processes: whether a ready task waits while a worker anywhere is idle."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median

from attrs import evolve, frozen

from benchmarks.figures import Figure, at_most
from benchmarks.processes import Worker
from benchmarks.setting import Setting
from benchmarks.tasks import make_executor, stamped

__all__ = ["Attempt", "longest_wait_beside_an_idle_worker", "measure", "since_all_work"]

PART = "mixed"
PROCESSES, WORKERS = 2, 4
SHORT, LONG = 0.001, 2.0
BAR = at_most(100.0, of_value=True)
_SPACING = 0.01
_EVER = float("inf")

Span = tuple[float, float]


@frozen
class Attempt:
    """When a task was ready, and where and when it ran."""

    process: float
    thread: float
    ready: float
    began: float
    ended: float


def measure(setting: Setting) -> Iterator[Figure]:
    """On one database; one round that misses the bar is enough to miss it."""
    shorts, longs = setting.size(900, 40), setting.size(60, 8)
    from_rest: list[float] = []
    at_work: list[float] = []
    spent: list[float] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(setting.url, workers=WORKERS)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
            worker.wait_until_started()
        for number in range(setting.rounds):
            attempts = _run(setting.url, shorts, longs, random.Random(number))
            from_rest.append(1000 * longest_wait_beside_an_idle_worker(attempts))
            at_work.append(1000 * longest_wait_beside_an_idle_worker(since_all_work(attempts)))
            spent.append(max(a.ended for a in attempts) - min(a.ready for a in attempts))
    mixed = f"{shorts} tasks of 1 ms and {longs} of 2 s, {PROCESSES} processes of {WORKERS} workers"
    for when, waits, bar in (("once both work", at_work, BAR), ("from rest on", from_rest, None)):
        work = f"longest wait beside an idle worker, {when}"
        yield Figure(part=PART, work=work, value=max(waits), unit="ms", bar=bar, note=mixed)
    ideal = (shorts * SHORT + longs * LONG) / (PROCESSES * WORKERS)
    yield Figure(
        part=PART,
        work="all of it",
        value=median(spent),
        unit="s",
        limits={"ideal": ideal},
        against="ideal",
        ratio=median(spent) / ideal,
    )


def _run(url: str, shorts: int, longs: int, chance: random.Random) -> list[Attempt]:
    """Half of them enqueued at once, the others one after another while those run."""
    seconds = [SHORT] * shorts + [LONG] * longs
    chance.shuffle(seconds)
    half = len(seconds) // 2
    executor = make_executor(url)
    handles = executor.enqueue_many(stamped.bind(each) for each in seconds[:half])
    ready = [time.monotonic()] * half
    for each in seconds[half:]:
        time.sleep(_SPACING)
        handles.append(executor.enqueue(stamped, each))
        ready.append(time.monotonic())
    ran = (handle.result(timeout=600) for handle in handles)
    return [
        Attempt(process, thread, since, began, ended)
        for since, (process, thread, began, ended) in zip(ready, ran, strict=True)
    ]


def since_all_work(attempts: Sequence[Attempt], processes: int = PROCESSES) -> list[Attempt]:
    """As if nothing had been ready before each process had started a task: one that rests polls when it polls."""
    first: dict[float, float] = {}
    for attempt in attempts:
        first[attempt.process] = min(attempt.began, first.get(attempt.process, _EVER))
    since = max(first.values()) if len(first) == processes else -_EVER
    return [evolve(attempt, ready=max(attempt.ready, since)) for attempt in attempts]


def longest_wait_beside_an_idle_worker(attempts: Sequence[Attempt], processes: int = PROCESSES) -> float:
    """The most seconds on end that one worker, anywhere, had nothing to do while one task was ready."""
    gaps = [gap for spans in _by_worker(attempts, processes) for gap in _gaps(spans)]
    return max(
        (min(attempt.began, end) - max(attempt.ready, start) for attempt in attempts for start, end in gaps),
        default=0.0,
    )


def _by_worker(attempts: Iterable[Attempt], processes: int) -> list[list[Span]]:
    """When each worker was at work; those that never were are among them."""
    busy: dict[tuple[float, float], list[Span]] = defaultdict(list)
    for attempt in attempts:
        busy[attempt.process, attempt.thread].append((attempt.began, attempt.ended))
    idle = max(processes * WORKERS - len(busy), 0)
    return [*busy.values(), *([] for _ in range(idle))]


def _gaps(spans: Iterable[Span]) -> Iterator[Span]:
    """The times between them, before and after."""
    last = -_EVER
    for began, ended in sorted(spans):
        yield last, began
        last = ended
    yield last, _EVER
