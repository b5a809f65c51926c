"""Tasks that kill their own process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from durable_sync import DurableExecutor, Execution, ExecutionStatus
from tests.crashes import worker
from tests.crashes.checker import read_history
from tests.crashes.processes import Workers, history_in

OPTIONS = ("--lease", "1", "--workers", "4")


@contextmanager
def restarted_workers(url: str, folder: Path, number: int) -> Iterator[Counter[int]]:
    """Worker processes, each replaced as soon as it has died; the value counts their exit codes."""
    codes: Counter[int] = Counter()
    ending = threading.Event()

    def supervise(workers: Workers) -> None:
        while not ending.wait(0.02):
            for dead in workers.restart_dead(*OPTIONS):
                codes[dead.wait(0)] += 1

    with Workers(url, folder) as workers:
        for _ in range(number):
            workers.start(*OPTIONS)
        supervisor = threading.Thread(target=supervise, args=(workers,))
        supervisor.start()
        try:
            yield codes
        finally:
            ending.set()
            supervisor.join()


def deaths(folder: Path, execution: Execution) -> int:
    """How often the execution began, each time to its process's end."""
    starts, ends = read_history(history_in(folder))
    assert execution.execution_id not in {end.execution_id for end in ends}
    return len([start for start in starts if start.execution_id == execution.execution_id])


@pytest.mark.timeout(120)
def test_a_poison_task_ends_as_failed(database_url: str, tmp_path: Path) -> None:
    """A task that kills its process fails after max_recoveries + 1 deaths, and the innocent beside it complete."""
    executor = DurableExecutor(database_url, tasks=worker.registry)
    innocents = executor.enqueue_many([worker.innocent.bind(0.2) for _ in range(12)])
    poison = executor.enqueue(worker.strong_poison)
    innocents += executor.enqueue_many([worker.innocent.bind(0.2) for _ in range(12)])
    with restarted_workers(database_url, tmp_path, 1) as codes:
        ended = poison.wait(timeout=60)
        for innocent in innocents:
            assert innocent.wait(timeout=60).status is ExecutionStatus.COMPLETED
    assert ended.status is ExecutionStatus.FAILED
    assert ended.error is not None
    assert "process that ran it died" in ended.error.message
    assert deaths(tmp_path, ended) == 2
    assert codes[-9] == 2
    executor.shutdown()


@pytest.mark.timeout(180)
def test_several_poison_tasks_take_no_innocent_with_them(sqlite_url: str, tmp_path: Path) -> None:
    """However many tasks kill their processes, all of them fail by themselves, and all the others complete."""
    executor = DurableExecutor(sqlite_url, tasks=worker.registry)
    calls = [worker.innocent.bind(0.1) for _ in range(30)]
    handles = executor.enqueue_many(calls)
    poisons = executor.enqueue_many([worker.poison.bind(), worker.strong_poison.bind()])
    handles += executor.enqueue_many(calls)
    poisons += executor.enqueue_many([worker.strong_poison.bind()])
    handles += executor.enqueue_many(calls)
    with restarted_workers(sqlite_url, tmp_path, 2):
        ended = [poison.wait(timeout=120) for poison in poisons]
        finished = [handle.wait(timeout=60) for handle in handles]
    assert Counter(execution.status for execution in ended) == {ExecutionStatus.FAILED: 3}
    assert Counter(execution.status for execution in finished) == {ExecutionStatus.COMPLETED: 90}
    # Fewer if it waited in a process that another one killed: that counts as a recovery too.
    for execution, bound in zip(ended, [4, 2, 2], strict=True):
        assert deaths(tmp_path, execution) <= bound
    executor.shutdown()
