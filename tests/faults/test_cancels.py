"""Cancels that race claims, finishes and kills."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import history
from tests.faults.figures import LENIENCE, database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.workload import endless, family, plain

SIGNALLED_WITHIN = 3.0
"""Seconds: a process compares what it runs with the database once a second, and hears of it sooner on PostgreSQL."""


@pytest.mark.timeout(1800)
def test_cancels(database_url: str, tmp_path: Path) -> None:
    """Nothing is claimed after an acknowledged cancel, what runs is told to stop in time, and nothing ends twice."""
    cancels = size(full=5_000, short=250)
    with Laboratory(database_url, tmp_path, lease=2.0) as laboratory:
        for _ in range(3):
            laboratory.start()
        handles = {}
        # Not all at once, so that cancels meet executions in every status.
        for start in range(0, cancels, 50):
            calls = [plain.bind(random.uniform(0.0, 0.03)) for _ in range(40)]
            calls += [family.bind(2, 0.01) for _ in range(8)] + [endless.bind() for _ in range(2)]
            for call, name in zip(calls, laboratory.enqueue(calls), strict=True):
                handles[name] = laboratory.executor.get_handle(call.task, name)
            acknowledged = cancel_some(laboratory, list(handles)[start:])
            laboratory.cancelled += acknowledged
            if random.random() < 0.2:
                random.choice(laboratory.workers.all).kill()
                laboratory.replace_dead()
        laboratory.may_be_cancelled += list(handles)
        laboratory.settle(120.0)
        problems = laboratory.problems()
        waits = signal_times(laboratory)
    note(
        "cancels",
        database_of(database_url),
        cancels=len(handles),
        acknowledged=len(laboratory.cancelled),
        signalled=len(waits),
        slowest_signal=round(max(waits, default=0.0), 2),
        problems=len(problems),
    )
    assert problems == []
    assert max(waits, default=0.0) <= SIGNALLED_WITHIN + LENIENCE


def cancel_some(laboratory: Laboratory, names: list[str]) -> list[str]:
    """Cancels all of these from several threads, each after a moment; returns those that a cancel has ended."""

    def cancel(name: str) -> str | None:
        time.sleep(random.uniform(0.0, 0.3))
        handle = laboratory.executor.get_handle(plain, name)
        ended = handle.cancel()
        history.append(laboratory.history, event="cancelled", execution_id=name)
        return name if ended else None

    with ThreadPoolExecutor(8) as threads:
        return [name for name in threads.map(cancel, names) if name is not None]


def signal_times(laboratory: Laboratory) -> list[float]:
    """Seconds from each acknowledged cancel until the running attempt was told, or had come to its end."""
    told = laboratory.account().history
    ended = {(end.execution_id, end.token): end.at for end in told.ends}
    cancelled_at = dict(zip(told.told["cancelled"], told.times["cancelled"], strict=True))
    return [
        ended[start.execution_id, start.token] - cancelled_at[start.execution_id]
        for start in told.starts
        if start.task_id == "endless"
        and (start.execution_id, start.token) in ended
        and start.execution_id in cancelled_at
    ]
