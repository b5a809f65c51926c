"""SQLite under several processes, one of which stops while it holds the only lock for writing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from durable_sync import DurableError, DurableExecutor, desk
from tests.crashes.checker import Crash
from tests.crashes.processes import Worker
from tests.faults.callers import Caller, accounted
from tests.faults.checker import check
from tests.faults.figures import LENIENCE, note, size
from tests.faults.laboratory import Laboratory
from tests.faults.working import working_since
from tests.faults.workload import mixture, plain, registry
from tests.waiting import wait_until

LEASE = 2.0
BUSY = LEASE / 2
"""Seconds that SQLite waits for the lock, with this lease."""
WORKS_AGAIN = size(full=5.0, short=10.0)
READ = 1.0
"""Seconds: who only reads waits for nobody."""


@pytest.mark.timeout(size(full=900, short=180))
@pytest.mark.parametrize("killed", [False, True], ids=["continued", "killed"])
def test_stopped_inside_a_write(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """Whoever wants to write is told so within a bound, readers go on, and all work on once the lock is free."""
    monkeypatch.setattr(desk, "CALLER_PATIENCE", size(full=desk.CALLER_PATIENCE, short=2.0))
    order = tmp_path / "stop"
    refusals: list[float] = []
    reads: list[float] = []
    freed: list[float] = []
    worked_again: list[float] = []
    crashes: list[Crash] = []
    with Laboratory(sqlite_url, tmp_path, lease=LEASE) as laboratory, Caller(sqlite_url, pause=0.01) as caller:
        workers = [*(laboratory.start() for _ in range(3)), laboratory.start_with("--stop-in-write", str(order))]
        wait_until(lambda: all_work(laboratory, workers, 0.0), 30, "every process works")
        for _ in range(size(full=10, short=1)):
            laboratory.enqueue(mixture(size(full=800, short=160), 0.02))
            order.touch()
            wait_until(lambda: is_stopped(workers[-1]), 20, "it stops inside a transaction")
            lapsed = time.monotonic() + LEASE + 1.0
            refusals.append(refusal(sqlite_url))
            reads.append(read(laboratory))
            # The length of the fault: longer than the lease, which nobody can renew meanwhile.
            time.sleep(max(lapsed - time.monotonic(), 0.0))
            if killed:
                crashes.append(workers[-1].kill())
            else:
                workers[-1].send(signal.SIGCONT)
            freed.append(time.monotonic())
            if killed:
                workers[-1] = laboratory.start_with("--stop-in-write", str(order))
            wait_until(lambda: all_work(laboratory, workers, freed[-1]), 30, "every process works again")
            worked_again.append(max(working_since(laboratory, freed[-1])[worker.name] for worker in workers))
            caller.go_on(acknowledged=5)
        caller.stop()
        laboratory.settle(120.0)
        account = accounted(laboratory.account(), [caller])
        problems = check(account)
        recoveries = laboratory.recoveries(crashes)
        # From those who could not renew their leases while they waited for the lock.
        taken = sum(move.recovers for move in account.moves) - len(recoveries)
        restarted = sum(not worker.is_alive() for worker in workers)
        errors = [line for worker in workers for line in worker.log.splitlines() if line.startswith("ERROR")]
    note(
        "stopped_killed" if killed else "stopped_continued",
        "SQLite",
        stops=len(freed),
        executions=len(account.rows),
        acknowledged=len(account.enqueued),
        refused=len(caller.errors),
        slowest_refusal=round(max(refusals), 2),
        slowest_read=round(max(reads), 2),
        slowest_enqueue=round(caller.slowest, 2),
        works_again=round(max(worked_again), 2),
        recovered=len(recoveries),
        taken_from_the_living=taken,
        slowest_recovery=round(max(recoveries, default=0.0), 2),
        restarted=restarted,
        problems=len(problems),
    )
    assert problems == []
    assert errors == []
    assert restarted == 0
    assert [error for error in caller.errors if not is_clear(error)] == []
    # It may have to wait for a thread of its own process first, and for the file then.
    assert max(refusals) <= desk.CALLER_PATIENCE + 2 * BUSY + 1.0 + LENIENCE
    assert max(reads) <= READ + LENIENCE
    assert max(worked_again) <= WORKS_AGAIN
    assert max(recoveries, default=0.0) <= LEASE + 4.0 + LENIENCE


def all_work(laboratory: Laboratory, workers: list[Worker], since: float) -> bool:
    return {worker.name for worker in workers} <= working_since(laboratory, since).keys()


def is_stopped(worker: Worker) -> bool:
    return psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED


def refusal(url: str) -> float:
    """Seconds until somebody who comes now, and wants to enqueue, was told that the database is locked."""
    executor = DurableExecutor(url, tasks=registry, lease=LEASE)
    asked_at = time.monotonic()
    with pytest.raises(DurableError) as told:
        executor.enqueue(plain, 0.0)
    executor.shutdown(timeout=0)
    assert is_clear(told.value)
    return time.monotonic() - asked_at


def is_clear(error: Exception) -> bool:
    return isinstance(error, DurableError) and "locked by another transaction" in error.message


def read(laboratory: Laboratory) -> float:
    """Seconds that a reader needs."""
    asked_at = time.monotonic()
    laboratory.executor.get_execution(laboratory.enqueued[0])
    return time.monotonic() - asked_at
