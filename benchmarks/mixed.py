"""Long and short tasks mixed, on two processes: whether a ready task waits while a worker anywhere is idle."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from statistics import median

from attrs import frozen

from benchmarks.figures import Figure, at_most
from benchmarks.processes import Worker
from benchmarks.setting import Setting
from benchmarks.stalls import Span, Stalls
from benchmarks.tasks import make_executor, stamped

__all__ = ["Attempt", "longest_wait_beside_an_idle_worker", "measure"]

PART = "mixed"
PROCESSES, WORKERS = 2, 4
SHORT, LONG = 0.001, 2.0
BAR = at_most(100.0, of_value=True)
_SPACING = 0.01
_EVER = float("inf")
_OF_THE_DISK = "without the disk's own stalls"


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
    waits: dict[str, list[float]] = defaultdict(list)
    spent: list[float] = []
    hung = 0.0
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(setting.url, workers=WORKERS)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
            worker.wait_until_started()
        for number in range(setting.rounds):
            with Stalls() as stalls:
                attempts = _run(setting.url, shorts, longs, random.Random(number))
            waits[_OF_THE_DISK].append(longest_wait_beside_an_idle_worker(attempts, stalls.spans))
            waits["disk and all"].append(longest_wait_beside_an_idle_worker(attempts))
            hung += stalls.seconds
            spent.append(max(a.ended for a in attempts) - min(a.ready for a in attempts))
    mixed = (
        f"{shorts} tasks of 1 ms and {longs} of 2 s, {PROCESSES} processes of {WORKERS} workers; the disk hung for "
        f"{hung * 1000:.0f} ms in {sum(spent):.0f} s"
    )
    for when, longest in waits.items():
        bar = BAR if when == _OF_THE_DISK else None
        work = f"longest wait beside an idle worker, {when}"
        yield Figure(part=PART, work=work, value=1000 * max(longest), unit="ms", bar=bar, note=mixed)
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


def longest_wait_beside_an_idle_worker(
    attempts: Sequence[Attempt], stalls: Sequence[Span] = (), processes: int = PROCESSES
) -> float:
    """The most seconds on end that one worker, anywhere, had nothing to do while one task was ready.

    Without what of them lies in one of the `stalls`.
    """
    gaps = [gap for spans in _by_worker(attempts, processes) for gap in _gaps(spans)]
    return max(
        (
            _length((max(attempt.ready, start), min(attempt.began, end)), stalls)
            for attempt in attempts
            for start, end in gaps
        ),
        default=0.0,
    )


def _length(span: Span, without: Iterable[Span]) -> float:
    start, end = span
    if end <= start:
        return 0.0
    return end - start - sum(max(min(end, last) - max(start, first), 0.0) for first, last in without)


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
