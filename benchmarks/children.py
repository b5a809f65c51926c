"""Whether a child costs more the more siblings it has: `python3 dev.py bench`.

Two figures, each the ratio of what a child costs under a parent of 10,000 to what it costs under a parent of 10, in
pairs of rounds that alternate; the median counts. "end to end": enqueue one parent of 10,000, or a thousand
parents of 10, and wait until all have ended. "one end": a child's end written alone, in a transaction of its own, which
is where a list of siblings would show.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.databases import databases
from benchmarks.setting import taking_turns
from durable_sync import DurableExecutor, Spawn, wait
from durable_sync.ids import new_id
from durable_sync.plans import Plan, PlanKind
from durable_sync.storage.leases import Incarnation
from durable_sync.storage.records import ClaimedExecution, Lineage, NewExecution
from durable_sync.storage.statements import Fenced
from durable_sync.storage.storage import Storage
from durable_sync.transitions import complete, spawn

MANY, FEW = 10_000, 10
ENDS = 1_000
BAR = 1.3


def child(number: int) -> int:
    """As little work as there can be."""
    return number


def make_executor(url: str) -> DurableExecutor:
    """An executor with a parent of as many children as it is told."""
    executor = DurableExecutor(url, max_workers=8)
    small = executor.task(child)

    @executor.parent_task
    def family(children: int) -> Spawn[int]:
        return Spawn(children, (small.bind(number) for number in range(children)))

    return executor


def end_to_end(executor: DurableExecutor, size: int) -> float:
    """Microseconds a child, from the enqueue to the end of all."""
    family = executor._registry.get("family")  # noqa: SLF001
    assert family is not None
    started = time.perf_counter()
    handles = executor.enqueue_many([family.bind(size)] * (MANY // size))
    wait(handles)
    return (time.perf_counter() - started) / MANY * 1e6


def one_end(storage: Storage, size: int) -> float:
    """Microseconds to write the end of one child, by itself."""
    children = [claimed for _ in range(max(ENDS // size, 1)) for claimed in _family(storage, size)][:ENDS]
    started = time.perf_counter()
    for claimed in children:
        ended = Fenced(claimed.execution_id, claimed.claim_token, complete("1"), claimed.task_id, claimed.lineage)
        recorded = storage.record([ended], uncertain=False)
        assert recorded.won
    return (time.perf_counter() - started) / len(children) * 1e6


def _family(storage: Storage, size: int) -> list[ClaimedExecution]:
    parent = _new(None)
    storage.enqueue([parent], patience=10)
    (claimed,) = storage.claim([parent.execution_id], limit=1, executor_id=_OWNER)
    children = [
        _new(Lineage(root_id=parent.execution_id, parent_id=parent.execution_id, child_index=place))
        for place in range(size)
    ]
    plan = Plan(kind=PlanKind.CHILDREN).to_json()
    born = Fenced(claimed.execution_id, claimed.claim_token, spawn("1", plan, size), "bench", None, tuple(children))
    storage.record([born], uncertain=False)
    taken = [new.execution_id for new in children[:ENDS]]
    return [
        one
        for start in range(0, len(taken), 500)
        for one in storage.claim(taken[start : start + 500], limit=500, executor_id=_OWNER)
    ]


_OWNER = new_id()


def _new(lineage: Lineage | None) -> NewExecution:
    return NewExecution(
        execution_id=new_id(),
        task_id="bench",
        input="{}",
        queue="bench",
        priority=0,
        max_recoveries=3,
        lineage=lineage,
    )


def compare(measure: Callable[[int], float], rounds: int) -> tuple[float, float, float]:
    """What a child costs among many and among few, and the ratio: medians of alternating rounds."""
    measure(FEW)
    taken = taking_turns(rounds, {"many": lambda: measure(MANY), "few": lambda: measure(FEW)})
    many, few = taken["many"], taken["few"]
    ratios = [one / other for one, other in zip(many, few, strict=True)]
    return statistics.median(many), statistics.median(few), statistics.median(ratios)


def main(arguments: Sequence[str]) -> int:
    """Prints the table; 1 if a ratio is over the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.children", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print(f"Python {platform.python_version()}, {platform.machine()}, microseconds a child, {options.rounds} rounds")
    print(f"{'':12}{'':12}{f'of {MANY:,}':>12}{f'of {FEW}':>12}{'ratio':>8}")
    worst = 0.0
    with databases() as urls:
        for name, url in urls.items():
            for label, many, few, ratio in _measure(url, options.rounds):
                print(f"{name:12}{label:12}{many:12.0f}{few:12.0f}{ratio:8.2f}", flush=True)
                worst = max(worst, ratio)
    print(f"the largest ratio is {worst:.2f}; the bar is {BAR}")
    return int(worst > BAR)


def _measure(url: str, rounds: int) -> list[tuple[str, float, float, float]]:
    with make_executor(url) as executor:
        end_to_end_figures = compare(lambda size: end_to_end(executor, size), rounds)
    executor = make_executor(url)
    executor.migrate()
    storage = executor._desk.storage  # noqa: SLF001
    storage.register(_incarnation(), patience=10)
    return [
        ("end to end", *end_to_end_figures),
        ("one end", *compare(lambda size: one_end(storage, size), rounds)),
    ]


def _incarnation() -> Incarnation:
    return Incarnation(executor_id=_OWNER, name="bench", hostname="bench", pid=0, lease=3_600_000_000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
