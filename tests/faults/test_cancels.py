"""Cancels that race claims, finishes and kills."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from durable_sync import TaskHandle
from tests.crashes.checker import Crash
from tests.faults import history
from tests.faults.figures import LENIENCE, database_of, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.workload import endless, family, plain

LEASE = 2.0
SIGNALLED_WITHIN = 3.0
"""Seconds: a process compares what it runs with the database once a second, and hears of it sooner on PostgreSQL."""
AT_ONCE = 50


@pytest.mark.timeout(1800)
def test_cancels(database_url: str, tmp_path: Path) -> None:
    """Nothing is claimed after an acknowledged cancel, what runs is told to stop in time, and nothing ends twice."""
    cancels = size(full=5_000, short=250)
    crashes: list[Crash] = []
    with Laboratory(database_url, tmp_path, lease=LEASE) as laboratory:
        for _ in range(3):
            laboratory.start()
        # Not all at once, so that cancels meet executions in every status.
        for number in range(cancels // AT_ONCE):
            calls = [plain.bind(random.uniform(0.0, 0.3)) for _ in range(AT_ONCE - 10)]
            calls += [family.bind(2, 0.05) for _ in range(8)] + [endless.bind() for _ in range(2)]
            names = laboratory.enqueue(calls)
            laboratory.may_be_cancelled += names
            handles = [laboratory.executor.get_handle(call.task, name) for call, name in zip(calls, names, strict=True)]
            laboratory.cancelled += cancel_all(laboratory, handles, crashes if number % 2 else None)
        laboratory.settle(120.0)
        problems = laboratory.problems()
        deadline = time.monotonic() + SIGNALLED_WITHIN + LENIENCE
        while (heard := signals(laboratory, crashes))[1] and time.monotonic() < deadline:
            time.sleep(0.1)
        waits, unheard = heard
    acknowledged = len(laboratory.cancelled)
    note(
        "cancels",
        database_of(database_url),
        cancels=cancels,
        acknowledged=acknowledged,
        kills_amid_cancels=len(crashes),
        signalled=len(waits),
        never_signalled=len(unheard),
        slowest_signal=round(max(waits, default=0.0), 2),
        problems=len(problems),
    )
    assert problems == []
    assert unheard == []
    assert waits
    assert max(waits) <= SIGNALLED_WITHIN + LENIENCE
    # Both sides of the race are won, and often.
    assert cancels // 10 < acknowledged < cancels - cancels // 10
    assert len(crashes) >= cancels // AT_ONCE // 4


def cancel_all(laboratory: Laboratory, handles: list[TaskHandle[str]], crashes: list[Crash] | None) -> list[str]:
    """Cancels all of these from several threads, each after a moment; returns those that a cancel has ended.

    With `crashes`, a process is killed while they are at it.
    """

    def cancel(handle: TaskHandle[str]) -> str | None:
        time.sleep(random.uniform(0.0, 0.3))
        ended = handle.cancel()
        history.append(laboratory.history, event="cancelled", execution_id=handle.execution_id)
        return handle.execution_id if ended else None

    with ThreadPoolExecutor(8) as threads:
        under_way = [threads.submit(cancel, handle) for handle in handles]
        if crashes is not None:
            time.sleep(random.uniform(0.0, 0.6))  # the moment of the fault
            crash = random.choice(laboratory.workers.all).kill()
            if not all(one.done() for one in under_way):
                crashes.append(crash)
            laboratory.replace_dead()
        return [name for one in under_way if (name := one.result()) is not None]


def signals(laboratory: Laboratory, crashes: list[Crash]) -> tuple[list[float], list[str]]:
    """Seconds from each cancel until the running attempt had come to its end, and the attempts that never did.

    Whoever died within the time allowed had no need to.
    """
    told = laboratory.account().history
    ended = {end.uid: end.at for end in told.ends}
    cancelled_at = dict(zip(told.told["cancelled"], told.times["cancelled"], strict=True))
    died = {crash.process: crash.at for crash in crashes}
    waits: list[float] = []
    unheard: list[str] = []
    for start in told.starts:
        if start.task_id != endless.id:
            continue
        since = max(cancelled_at[start.execution_id], start.at)
        if start.uid in ended:
            waits.append(ended[start.uid] - since)
        elif died.get(start.process, float("inf")) > since + SIGNALLED_WITHIN + LENIENCE:
            unheard.append(start.execution_id)
    return waits, unheard
