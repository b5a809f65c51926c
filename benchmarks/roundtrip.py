"""Round trips: from `enqueue` to the output in the caller's hand, one after another."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from statistics import median

from benchmarks.figures import Bar, Figure, at_most
from benchmarks.processes import Worker
from benchmarks.raw import Raw
from benchmarks.setting import Setting, percentile, taking_turns
from benchmarks.tasks import make_executor, small, started
from durable_sync import DurableExecutor

__all__ = ["measure"]

PART = "roundtrip"
COMMITS = "three bare commits"
RESTS, REST = 10, 7
"""How often, and for how many seconds: a claimer that has just had work looks more often, for five."""
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_SOON = at_most(25.0, of_value=True)
ONE_PROCESS = {
    ("SQLite", "p50"): at_most(1.2),
    ("PostgreSQL", "p50"): at_most(1.2),
    ("MariaDB", "p50"): at_most(1.6),
}
TWO_PROCESSES = {
    ("SQLite", "p50"): _SOON,
    ("PostgreSQL", "p50"): at_most(4.0),
    ("PostgreSQL", "p99"): _SOON,
    ("MariaDB", "p50"): _SOON,
}
Bars = dict[tuple[str, str], Bar]


def measure(setting: Setting) -> Iterator[Figure]:
    """Within one process, then with a worker in another."""
    with closing(Raw(setting.url)) as raw:
        raw.three_commits(setting.size(50, 10))
        with started(setting.url, "one_") as executor:
            yield from _against_commits(setting, raw, executor, "in one process", ONE_PROCESS)
        with Worker(setting.url, "two_") as worker:
            worker.start()
            worker.wait_until_started()
            caller = make_executor(setting.url, "two_")
            _round_trips(caller, setting.size(50, 5))
            yield from _against_commits(setting, raw, caller, "across two processes", TWO_PROCESSES)
            if not setting.is_quick:
                yield _after_a_rest(caller)


def _against_commits(setting: Setting, raw: Raw, executor: DurableExecutor, where: str, bars: Bars) -> Iterator[Figure]:
    number = setting.size(2_000, 50)
    ours: list[list[float]] = []
    commits: list[list[float]] = []
    taking_turns(
        setting.rounds,
        {
            COMMITS: lambda: commits.append(raw.three_commits(number)),
            "ours": lambda: ours.append(_round_trips(executor, number)),
        },
    )
    for name, part in PERCENTILES.items():
        # Of a thousandth there are too few in one round.
        rounds = (
            [(list(chain(*ours)), list(chain(*commits)))] if name == "p99.9" else list(zip(ours, commits, strict=True))
        )
        pairs = [(percentile(one, part) * 1000, percentile(other, part) * 1000) for one, other in rounds]
        yield Figure(
            part=PART,
            work=f"{where}, {name}",
            value=median(one for one, _ in pairs),
            unit="ms",
            limits={COMMITS: median(other for _, other in pairs)},
            against=COMMITS,
            ratio=median(one / other for one, other in pairs),
            bar=bars.get((setting.database, name)),
        )


def _after_a_rest(caller: DurableExecutor) -> Figure:
    taken: list[float] = []
    chance = random.Random(1)
    for _ in range(RESTS):
        # Not in step with anything that is done so many times a second.
        time.sleep(REST + chance.random())
        taken += _round_trips(caller, 1)
    return Figure(
        part=PART, work=f"across two processes that rested for {REST} s, p50", value=median(taken) * 1000, unit="ms"
    )


def _round_trips(executor: DurableExecutor, number: int) -> list[float]:
    taken: list[float] = []
    for place in range(number):
        began = time.perf_counter()
        assert executor.enqueue(small, place).result(timeout=60) == place
        taken.append(time.perf_counter() - began)
    return taken
