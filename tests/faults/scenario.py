"""A short life in one process, which commits everything that can be: the sweep spoils one COMMIT after another.

What is acknowledged to the caller is noted: enqueued, woken, cancelled.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from durable_sync import DurableError, DurableExecutor, TaskHandle
from tests.faults import history
from tests.faults.workload import approval, asks, endless, endless_family, family, flaky, fragile, loop, sequence

__all__ = ["live"]

_SECONDS = 20.0


def live(executor: DurableExecutor, path: Path, point: str) -> None:
    """Enqueues, wakes, cancels and waits, while the executor runs the work in this process."""

    def acknowledged(handles: list[TaskHandle[Any]], what: str) -> list[TaskHandle[Any]]:
        for handle in handles:
            history.append(path, event=what, execution_id=handle.execution_id)
        return handles

    with executor:
        work = acknowledged(
            executor.enqueue_many(
                [family.bind(3, 0.01), flaky.bind(0.01), sequence.bind(0.01), fragile.bind(1, 0.01), loop.bind(0.01)]
            ),
            "enqueued",
        )
        asking = executor.enqueue(asks, point)
        work += acknowledged([asking], "enqueued")
        doomed: list[TaskHandle[Any]] = [executor.enqueue(endless), executor.enqueue(endless_family, 2)]
        acknowledged(doomed, "enqueued")
        _wait_for(lambda: _wakes(executor, point))
        (asked,) = asking.get_execution().children
        history.append(path, event="woken", execution_id=asked.execution_id)
        for handle in doomed:
            acknowledged([handle], "cancels")
            if handle.cancel():
                acknowledged([handle], "cancelled")
        for handle in work:
            handle.wait(_SECONDS)


def _wakes(executor: DurableExecutor, key: str) -> bool:
    try:
        executor.wake(approval, key, output=key)
    except DurableError:
        return False
    return True


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.02)
